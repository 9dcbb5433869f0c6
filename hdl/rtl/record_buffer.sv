// Ring of words: records lie in it one behind the other, in the order in which they came.
//
// A word is promised a place when it is let in, is written when it left the exit stage, and gives
// its place back when it is read, or zeroed unread. So a new word never meets an old one. The ring
// is two memories, one for each half of the places, which are wiped beside each other.
//
// Ports
//   clear_i     zeroize: hold it, all places are free again;  wipe_i  start wiping;  wiping_o
//   promise_i   a word was let in a clock ago;  room_o  there is a place for one more, out of a
//               register: four places, for words that are not yet counted, stay free
//   write_*     the next word promised a place
//   read_i      the oldest word leaves; read_data_o one clock later, steady until the next
//   discard_i   zero the oldest word; discarded_o  done: not while that memory is being written
//   *_parity_*  travel with the words, and lie in bits that the block RAM has to spare
//   fault_o     a clock ago: a word read that is not there, or written over one that is
//
// Latency 1 clock to read, throughput one word a clock each way.

module record_buffer #(
    parameter int unsigned BankWords = 16384  // places in each half, a power of two
) (
    input  logic         clk_i,
    input  logic         rst_ni,
    input  logic         clear_i,
    input  logic         wipe_i,
    output logic         wiping_o,
    input  logic         promise_i,
    output logic         room_o,
    input  logic         write_i,
    input  logic [127:0] write_data_i,
    input  logic [  3:0] write_parity_i,
    input  logic         read_i,
    input  logic         discard_i,
    output logic         discarded_o,
    output logic [127:0] read_data_o,
    output logic [  3:0] read_parity_o,
    output logic         fault_o
);

  localparam int unsigned IndexBits = $clog2(BankWords);

  // Places: {round, half, index}. Round distinguishes a full ring from an empty one.
  logic [IndexBits+1:0] write_place_q, read_place_q, write_place_d, read_place_d;
  // Words let in that have not left.
  logic [IndexBits+1:0] promised_q, promised_d, step;
  logic nearly_full_q, nearly_full_d;  // a clock ago at most four places were free
  logic write_half, read_half, read_half_q, read_half_d, leaves, same_place, same_round, fault_q;
  logic [1:0] wiping, wrong_bank;
  logic [131:0] read_data[2];
  logic wrong_places;

  assign write_half = write_place_q[IndexBits];
  assign read_half = read_place_q[IndexBits];
  assign leaves = read_i | discarded_o;
  // Up by one, down by one, or not at all.
  assign step = {{(IndexBits + 1) {leaves & ~promise_i}}, leaves ^ promise_i};

  always_comb begin
    write_place_d = write_place_q;
    read_place_d  = read_place_q;
    promised_d    = promised_q + step;
    if (write_i) begin
      write_place_d = write_place_q + 1'b1;
    end
    if (leaves) begin
      read_place_d = read_place_q + 1'b1;
    end
    if (clear_i) begin
      write_place_d = '0;
      read_place_d  = '0;
      promised_d    = '0;
    end
  end

  assign nearly_full_d = promised_q[IndexBits+1] | (&promised_q[IndexBits:2]);
  assign read_half_d = read_i ? read_half : read_half_q;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      write_place_q <= '0;
      read_place_q  <= '0;
      promised_q    <= '0;
      nearly_full_q        <= 1'b0;
      read_half_q   <= 1'b0;
    end else begin
      write_place_q <= write_place_d;
      read_place_q  <= read_place_d;
      promised_q    <= promised_d;
      nearly_full_q        <= nearly_full_d;
      read_half_q   <= read_half_d;
    end
  end

  control_twin #(
      .Width($bits({write_place_q, read_place_q, promised_q, nearly_full_q, read_half_q}))
  ) u_twin (
      .clk_i,
      .rst_ni,
      .next_i ({write_place_d, read_place_d, promised_d, nearly_full_d, read_half_d}),
      .held_i ({write_place_q, read_place_q, promised_q, nearly_full_q, read_half_q}),
      .wrong_o(wrong_places)
  );

  for (genvar b = 0; b < 2; b++) begin : gen_bank
    logic written, zeroed;

    assign written = write_i && write_half == 1'(b);
    assign zeroed = discarded_o && read_half == 1'(b);

    record_bank #(
        .Words(BankWords)
    ) u_bank (
        .clk_i,
        .rst_ni,
        .wipe_i,
        .wiping_o(wiping[b]),
        .write_i(written || zeroed),
        .write_index_i(written ? write_place_q[IndexBits-1:0] : read_place_q[IndexBits-1:0]),
        .write_data_i(written ? {write_parity_i, write_data_i} : '0),
        .read_i(read_i && read_half == 1'(b)),
        .read_index_i(read_place_q[IndexBits-1:0]),
        .read_data_o(read_data[b]),
        .wrong_o(wrong_bank[b])
    );
  end

  assign same_place = write_place_q[IndexBits:0] == read_place_q[IndexBits:0];
  assign same_round = write_place_q[IndexBits+1] == read_place_q[IndexBits+1];

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      fault_q <= 1'b0;
    end else begin
      fault_q <= same_place & ((leaves & same_round) | (write_i & ~same_round));
    end
  end

  assign wiping_o    = |wiping;
  assign room_o      = ~nearly_full_q;
  assign discarded_o = discard_i & ~(write_i & (write_half == read_half));
  assign {read_parity_o, read_data_o} = read_half_q ? read_data[1] : read_data[0];
  assign fault_o     = fault_q | wrong_places | (|wrong_bank);

  // ---- Assertions, in the builds of the benches; ../formal proves more --------------------------

`ifdef RTL_ASSERTIONS
  a_room :
  assert property (@(posedge clk_i) disable iff (!rst_ni) promise_i |-> !promised_q[IndexBits+1]);
  a_there :
  assert property (@(posedge clk_i) disable iff (!rst_ni)
                   leaves && !clear_i |-> !(same_place && same_round));
`endif

endmodule
