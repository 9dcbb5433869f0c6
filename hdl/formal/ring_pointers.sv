// The ring of the record buffer never overruns: no word is written over one that was not read.
//
// Words are let in only while there is room and promised a place a clock later, written only when
// promised, read only when written, as the modules around it do. The ring is short, its memory is
// replaced by anything.

module ring_pointers (
    input logic         clk_i,
    input logic         rst_ni,
    input logic         clear_i,
    input logic         wipe_i,
    input logic         take_i,
    input logic         write_i,
    input logic [127:0] write_data_i,
    input logic [3:0]   write_parity_i,
    input logic         read_i,
    input logic         discard_i
);

  localparam int unsigned BankWords = 16;

  logic room, discarded, fault, promise_q;

  record_buffer #(
      .BankWords(BankWords)
  ) u_dut (
      .clk_i,
      .rst_ni,
      .clear_i,
      .wipe_i,
      .promise_i  (promise_q),
      .room_o     (room),
      .write_i,
      .write_data_i,
      .write_parity_i,
      .read_i,
      .discard_i,
      .discarded_o(discarded),
      .fault_o    (fault)
  );

  (* hierconn *) wire [5:0] \u_dut.write_place_q ;
  (* hierconn *) wire [5:0] \u_dut.read_place_q ;
  (* hierconn *) wire [5:0] \u_dut.promised_q ;
  (* hierconn *) wire \u_dut.nearly_full_q ;

  // Counted by the wrapper: words promised a place and not yet written, words written and not yet gone.
  logic [6:0] coming_q, lying_q;
  wire leaves = read_i || discarded;

  always_comb begin
    assume (!take_i || room);
    assume (!write_i || coming_q != '0);
    assume (!(read_i || discard_i) || lying_q != '0);
    assume (!(read_i && discard_i));
  end

  logic started_q;
  initial started_q = 1'b0;

  always_ff @(posedge clk_i) begin
    started_q <= 1'b1;
    promise_q <= rst_ni && !clear_i && take_i;
    if (!started_q) begin
      assume (!rst_ni);
    end
    if (!rst_ni || clear_i) begin
      coming_q <= '0;
      lying_q  <= '0;
    end else begin
      coming_q <= coming_q + 7'(promise_q) - 7'(write_i);
      lying_q  <= lying_q + 7'(write_i) - 7'(leaves);
    end
    if (rst_ni && started_q) begin
      a_fits: assert (coming_q + lying_q + 7'(promise_q) <= 7'(2 * BankWords));
      a_promised: assert (7'(\u_dut.promised_q ) == coming_q + lying_q);
      a_places: assert (\u_dut.write_place_q - \u_dut.read_place_q == lying_q[5:0]);
      // One word let in and not yet counted, and one more.
      i_room: assert (\u_dut.nearly_full_q || \u_dut.promised_q <= 6'(2 * BankWords - 4));
      i_range: assert (coming_q <= 7'(2 * BankWords) && lying_q <= 7'(2 * BankWords));
      a_no_fault: assert (!fault);
    end
  end

endmodule
