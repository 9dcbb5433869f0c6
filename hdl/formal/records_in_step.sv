// Every record that is taken in ends once and is judged once, in order, whatever zeroize and key
// loads do meanwhile; the ledger never holds more than it has places; every word that was promised
// a place in the buffer is written or dropped with the promise.
//
// The whole engine with its real wiring. Cipher, GHASH, key schedule, unwrapping, self test and
// memories are replaced by anything: they do not decide what is a record. What the other sets take
// for granted of records and words is shown here.

module records_in_step #(
    parameter int unsigned WordBytes = 16
) (
    input logic         clk_i,
    input logic         rst_ni,
    input logic         s_apb_psel,
    input logic         s_apb_penable,
    input logic         s_apb_pwrite,
    input logic [2:0]   s_apb_pprot,
    input logic [7:0]   s_apb_paddr,
    input logic [31:0]  s_apb_pwdata,
    input logic [3:0]   s_apb_pstrb,
    input logic [255:0] transport_key_i,
    input logic         in_valid_i,
    input logic [127:0] in_data_i,
    input logic         in_last_i,
    input logic         out_ready_i
);

  localparam int unsigned BankBytes = 256;
  localparam logic [5:0] RingWords = 2 * BankBytes / 16;
  localparam int unsigned Delay = 4;  // as in abstract/slot_delay.sv
  localparam int unsigned Beside = drive_crypto_pkg::ghash_latency(WordBytes);
  localparam logic [2:0] SlotData = record_pkg::SlotData;
  localparam logic [2:0] SlotEnd = record_pkg::SlotEnd;
  localparam logic [2:0] SlotRefused = record_pkg::SlotRefused;

  drive_crypto #(
      .WordBytes(WordBytes),
      .BankBytes(BankBytes)
  ) u_dut (
      .clk_i,
      .rst_ni,
      .s_apb_psel,
      .s_apb_penable,
      .s_apb_pwrite,
      .s_apb_pprot,
      .s_apb_paddr,
      .s_apb_pwdata,
      .s_apb_pstrb,
      .transport_key_i,
      .in_valid_i,
      .in_data_i,
      .in_last_i,
      .out_ready_i
  );

  (* hierconn *) wire [3:0] \u_dut.phase ;
  (* hierconn *) wire [2:0] \u_dut.u_issue.state_q ;
  (* hierconn *) wire \u_dut.u_issue.refused_q ;
  (* hierconn *) wire \u_dut.u_issue.fresh_q ;
  (* hierconn *) wire [2:0] \u_dut.u_issue.kind_q ;
  (* hierconn *) wire \u_dut.u_issue.take ;
  (* hierconn *) wire \u_dut.u_issue.refused ;
  (* hierconn *) wire [Delay-1:0][2:0] \u_dut.u_slot_delay.kinds_q ;
  (* hierconn *) wire \u_dut.u_exit.write_q ;
  (* hierconn *) wire \u_dut.u_exit.end_q ;
  (* hierconn *) wire [4:0] \u_dut.u_ledger.tail_q ;
  (* hierconn *) wire [4:0] \u_dut.u_ledger.exit_q ;
  (* hierconn *) wire [4:0] \u_dut.u_ledger.judged_q ;
  (* hierconn *) wire [4:0] \u_dut.u_ledger.head_q ;
  (* hierconn *) wire [Beside-1:0] \u_dut.u_ledger.ends_q ;
  (* hierconn *) wire \u_dut.u_ledger.sum_valid_q ;
  (* hierconn *) wire \u_dut.u_ledger.judge_q ;
  (* hierconn *) wire \u_dut.u_ledger.full_q ;
  (* hierconn *) wire [5:0] \u_dut.u_buffer.promised_q ;
  (* hierconn *) wire \u_dut.u_buffer.nearly_full_q ;
  (* hierconn *) wire [5:0] \u_dut.u_buffer.write_place_q ;
  (* hierconn *) wire [5:0] \u_dut.u_buffer.read_place_q ;
  (* hierconn *) wire \u_dut.u_buffer.leaves ;
  (* hierconn *) wire [2:0] \u_dut.u_key_control.state_q ;
  (* hierconn *) wire [1:0] \u_dut.u_key_control.load_q ;
  (* hierconn *) wire [7:0] \u_dut.u_key_control.clear_q ;
  (* hierconn *) wire \u_dut.u_key_control.key_loading_q ;
  (* hierconn *) wire \u_dut.u_key_control.hash_key_q ;

  wire [3:0] phase = \u_dut.phase ;
  wire [2:0] state = \u_dut.u_issue.state_q ;
  wire [4:0] tail = \u_dut.u_ledger.tail_q ;
  wire [4:0] exits = \u_dut.u_ledger.exit_q ;
  wire [4:0] judged = \u_dut.u_ledger.judged_q ;
  wire [4:0] head = \u_dut.u_ledger.head_q ;
  wire [4:0] known = tail - head;
  wire [4:0] unjudged = tail - judged;
  wire [2:0] key_state = \u_dut.u_key_control.state_q ;
  localparam logic [2:0] StHeader = 3'd0;
  localparam logic [2:0] StData = 3'd2;
  localparam logic [2:0] StClear = 3'd0;
  localparam logic [2:0] StEmpty = 3'd1;
  localparam logic [2:0] StHash = 3'd5;
  localparam logic [2:0] StValid = 3'd7;
  // It is opened in the clock after its header.
  wire fresh = \u_dut.u_issue.fresh_q ;
  wire inside = state != StHeader && !fresh;

  // Slots between issue and exit, and records between exit and judgement.
  wire [Delay:0][2:0] kinds = {\u_dut.u_slot_delay.kinds_q , \u_dut.u_issue.kind_q };
  logic [5:0] data_slots;
  logic [4:0] last_slots, beside;

  always_comb begin
    data_slots = '0;
    last_slots = '0;
    for (int i = 0; i <= Delay; i++) begin
      data_slots = data_slots + 6'(i != 0 && kinds[i] == SlotData);
      last_slots = last_slots + 5'(kinds[i] == SlotEnd || kinds[i] == SlotRefused);
    end
    beside = 5'(\u_dut.u_ledger.sum_valid_q ) + 5'(\u_dut.u_ledger.judge_q );
    for (int i = 0; i < Beside; i++) begin
      beside = beside + 5'(\u_dut.u_ledger.ends_q [i]);
    end
  end

  // One that was just let in is promised its place at the next edge.
  wire [5:0] let_in = 6'(kinds[0] == SlotData);
  wire [5:0] coming = data_slots + 6'(\u_dut.u_exit.write_q );
  wire [5:0] lying = \u_dut.u_buffer.write_place_q - \u_dut.u_buffer.read_place_q ;
  wire [5:0] promised = \u_dut.u_buffer.promised_q ;

  // The output stage reads no word that is not there: it knows the length of the record.
  always_comb begin
    assume (!\u_dut.u_buffer.leaves || lying != '0);
  end

  logic started_q, taken_q;
  initial started_q = 1'b0;

  always_ff @(posedge clk_i) begin
    started_q <= 1'b1;
    taken_q   <= rst_ni && state == StData && \u_dut.u_issue.take && !\u_dut.u_issue.refused ;
    if (!started_q) begin
      assume (!rst_ni);
    end
    if (rst_ni && started_q) begin
      // Of the records that were opened and are not through the exit stage, one may still be taken
      // in, and each other has one last slot on its way.
      a_ends_once: assert (tail - exits == 5'(inside) + last_slots);
      // Each that is through it is on its way to its verdict.
      a_judged_once: assert (exits - judged == 5'(\u_dut.u_exit.end_q ) + beside);
      a_places: assert (known <= 5'd16 && unjudged <= known);
      // Slots are made at their turn only.
      a_turn: assert (kinds[0] == '0 || phase == 4'(drive_crypto_pkg::word_clocks(WordBytes) != 1));
      // A data word that the host was relieved of, and no other, has a slot.
      a_taken: assert (taken_q == (kinds[0] == SlotData));
      // Words that were promised a place are on their way to it or lie there.
      a_words: assert (promised == coming + lying);
      a_room: assert (promised + let_in <= RingWords && coming <= promised);
      i_room: assert (\u_dut.u_buffer.nearly_full_q || promised <= RingWords - 6'd4);
      // Registers that follow what they are made from.
      i_full: assert (\u_dut.u_ledger.full_q == (known == 5'd16));
      i_clear: assert (\u_dut.u_key_control.clear_q == {8{key_state == StClear}});
      i_loading: assert (\u_dut.u_key_control.key_loading_q ==
                         (\u_dut.u_key_control.load_q != 2'd0 && key_state != StValid));
      i_hash: assert (\u_dut.u_key_control.hash_key_q == (key_state == StHash));
      i_fresh: assert (!fresh || (state != StHeader && !\u_dut.u_issue.refused_q ));
      i_opens: assert (!fresh || known < 5'd16);
      // None of these sums wraps.
      i_sum: assert (6'(unjudged) == 6'(inside) + 6'(last_slots) +
                     6'(\u_dut.u_exit.end_q ) + 6'(beside));
      // While a key is made, only a refused record may still be taken in.
      i_keys: assert (key_state == StClear || key_state == StEmpty || key_state == StValid ||
                      (\u_dut.u_key_control.load_q != 2'd0 && (state == StHeader || \u_dut.u_issue.refused_q )));
    end
  end

endmodule
