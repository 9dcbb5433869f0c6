// What is known of the records inside, from their headers to their results.
//
// Records keep their order, so the ledger is a ring too: one opens at its tail, one is at the exit
// stage, one is judged, and the oldest is taken as a result. A record that left the exit stage
// travels here beside GHASH, whatever it is, and meets its digest.
//
// Encrypt: seed summed with digest is the tag. Decrypt: that sum is zero in all 128 bits if and
// only if the tag matched; anything else condemns the record.
//
// Ports
//   clear_i    zeroize: every record inside is refused with StatusZeroized, if not refused or
//              failed before. Hold it Entries clocks: it wipes one tag a clock
//   open_*     a record begins; with a status other than OK it is refused. Words are of its data.
//              Only when it was free a clock ago
//   torn_i     the last one opened ends, and its frame was not as long as its header said: it is
//              refused with StatusBadFrame. torn_words_i of its words are in the buffer
//   inside_i   the last one opened is still being taken in
//   exit_last_i        the last slot of a record is at the exit stage
//   exit_*_o   the record that is there, from two clocks after the last slot of the one before
//   end_*      a record is through the exit stage;  digest_*  of the one ghash_latency before
//   free_o     a record can be opened;  empty_o  none is inside
//   result_*   the oldest record once it was judged, out of a register;  taken_i  it was taken.
//              result_words_o places of the buffer are its own
//   counted_o, tag_failed_o   one clock: the record taken went well; its tag did not match
//   fault_o    a clock ago: a digest that nobody waits for, or none where one is due; a register of
//              control is not what it was set to; what a header said is not what was written down
//
// Latency ghash_latency + 4 clocks from end to result.

module record_ledger #(
    parameter int unsigned Entries = 16,   // a power of two
    parameter int unsigned WordBytes = 16  // bytes a clock: 16, 8, 4 or 1
) (
    input  logic         clk_i,
    input  logic         rst_ni,
    input  logic         clear_i,
    input  logic         open_i,
    input  logic [  7:0] open_status_i,
    input  logic [  3:0] open_op_i,
    input  logic [  7:0] open_aad_len_i,
    input  logic [ 18:0] open_data_len_i,
    input  logic [ 14:0] open_words_i,
    input  logic         torn_i,
    input  logic [ 14:0] torn_words_i,
    input  logic         inside_i,
    input  logic         exit_last_i,
    output logic         exit_gcm_o,
    output logic         exit_decrypt_o,
    output logic [  7:0] exit_aad_len_o,
    output logic [ 18:0] exit_data_len_o,
    input  logic         end_valid_i,
    input  logic         end_gcm_i,
    input  logic         end_decrypt_i,
    input  logic [127:0] end_seed_i,
    input  logic         digest_valid_i,
    input  logic [127:0] digest_i,
    output logic         free_o,
    output logic         empty_o,
    output logic         result_valid_o,
    output logic [  7:0] result_status_o,
    output logic [  3:0] result_op_o,
    output logic [ 18:0] result_data_len_o,
    output logic [ 14:0] result_words_o,
    output logic [127:0] result_tag_o,
    input  logic         taken_i,
    output logic         counted_o,
    output logic         tag_failed_o,
    output logic         fault_o
);

  localparam logic [7:0] Ok = drive_crypto_pkg::StatusOk;
  localparam int unsigned PlaceBits = $clog2(Entries);
  localparam int unsigned Latency = drive_crypto_pkg::ghash_latency(WordBytes);

  // ---- Places: one bit more than an index, to distinguish a full ring from an empty one -------

  logic [PlaceBits:0] tail_q, exit_q, judged_q, head_q, tail_d, exit_d, judged_d, head_d, cut_place;
  logic [PlaceBits-1:0] tail, at_exit, at_judge, head;
  logic judge, fetch, full_q, full_d;

  assign tail = tail_q[PlaceBits-1:0];
  assign at_exit = exit_q[PlaceBits-1:0];
  assign at_judge = judged_q[PlaceBits-1:0];
  assign head = head_q[PlaceBits-1:0];

  assign tail_d = tail_q + (PlaceBits + 1)'(open_i);
  assign head_d = head_q + (PlaceBits + 1)'(fetch);

  // Zeroize leaves nothing between issue and judgement but the record being taken in.
  assign cut_place = inside_i ? tail_q - 1'b1 : tail_q;

  always_comb begin
    exit_d   = exit_q + (PlaceBits + 1)'(exit_last_i);
    judged_d = judged_q + (PlaceBits + 1)'(judge);
    if (clear_i) begin
      exit_d   = cut_place;
      judged_d = cut_place;
    end
  end

  // Without the sums, which are late.
  logic [PlaceBits:0] known;
  assign known = tail_q - head_q;
  assign full_d = ~fetch & (full_q | (open_i & (known == (PlaceBits + 1)'(Entries - 1))));

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      tail_q   <= '0;
      exit_q   <= '0;
      judged_q <= '0;
      head_q   <= '0;
      full_q   <= 1'b0;
    end else begin
      tail_q   <= tail_d;
      exit_q   <= exit_d;
      judged_q <= judged_d;
      head_q   <= head_d;
      full_q   <= full_d;
    end
  end

  // ---- What the headers said -------------------------------------------------------------------

  // For the exit stage, and for the result: each has one reader. Each carries its parity.
  typedef struct packed {
    logic        gcm;
    logic        decrypt;
    logic [7:0]  aad_len;
    logic [18:0] data_len;
  } exit_t;

  typedef struct packed {
    logic [7:0]  status;
    logic [3:0]  op;
    logic [18:0] data_len;
    logic [14:0] words;
  } result_t;

  exit_t opened_exit, exit_record_q;
  result_t opened_result, result;

  localparam int unsigned ExitBits = $bits(exit_record_q) + 1;
  localparam int unsigned ResultBits = $bits(result) + 1;

  logic [ExitBits-1:0] exits[Entries];
  logic [ResultBits-1:0] results[Entries];
  logic exit_parity_q, result_parity, wrong_exit_q, wrong_next_q;

  assign opened_exit.gcm = open_op_i != drive_crypto_pkg::OpBypass;
  assign opened_exit.decrypt = open_op_i == drive_crypto_pkg::OpDecrypt;
  assign opened_exit.aad_len = open_aad_len_i;
  assign opened_exit.data_len = open_data_len_i;
  // Again when it ends torn: op and length are steady for as long as it is taken in.
  assign opened_result.op = open_op_i;
  assign opened_result.data_len = open_data_len_i;

  always_comb begin
    if (torn_i) begin
      opened_result.status = drive_crypto_pkg::StatusBadFrame;
      opened_result.words  = torn_words_i;
    end else begin
      opened_result.status = open_status_i;
      opened_result.words  = open_status_i == Ok ? open_words_i : '0;
    end
  end

  // The result is written a clock later, long before it is due: its status comes late.
  logic opened_q, opened_d;
  logic [PlaceBits-1:0] opened_place_q, opened_place_d;
  logic [ResultBits-1:0] opened_result_q;

  assign opened_d = open_i | torn_i;
  assign opened_place_d = torn_i ? tail - 1'b1 : tail;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      opened_q <= 1'b0;
    end else begin
      opened_q <= opened_d;
    end
  end

  always_ff @(posedge clk_i) begin
    opened_place_q  <= opened_place_d;
    opened_result_q <= {^opened_result, opened_result};
    if (open_i) begin
      exits[tail] <= {^opened_exit, opened_exit};
    end
    if (opened_q) begin
      results[opened_place_q] <= opened_result_q;
    end
  end

  // Registered: records are two clocks apart at the exit stage, for their headers make no slots.
  // Zero without a record: a place that was not written since reset may hold anything.
  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      {exit_parity_q, exit_record_q} <= '0;
    end else begin
      {exit_parity_q, exit_record_q} <= exit_q == tail_q ? '0 : exits[at_exit];
    end
  end

  assign {result_parity, result} = results[head];

  // ---- Beside GHASH, then judgement ------------------------------------------------------------

  logic [Latency-1:0] ends_q, gcm_q, decrypt_q;  // [0] is the youngest
  // Where no record ends before the digest of the one before is there, one seed waits.
  localparam bit OneSeed = Latency <= drive_crypto_pkg::word_clocks(WordBytes);
  localparam int unsigned Seeds = OneSeed ? 1 : Latency;
  localparam int unsigned SeedBits = 128 * Seeds;
  logic [Seeds-1:0][127:0] seeds_q;
  logic [127:0] seed;
  logic sum_valid_q, sum_decrypt_q, mismatch, due, judge_q, fault_q;
  logic [127:0] sum_q;  // after decrypt it must be zeroed: it would give a forger the right tag
  logic [7:0] some_q;  // one bit for each 16 of that
  logic [127:0] sealed_q;  // the tag, on encrypt

  assign seed = end_gcm_i ? end_seed_i : 128'd0;
  assign due = ends_q[Latency-1] & gcm_q[Latency-1];

  // What decides about a record, beside the numbers that it decides with.
  localparam int unsigned VerdictBits = $bits(
      {ends_q, gcm_q, decrypt_q, sum_valid_q, sum_decrypt_q, judge_q, some_q}
  );
  logic [VerdictBits-1:0] verdict_q, verdict_d;
  logic [7:0] some_d;

  assign {ends_q, gcm_q, decrypt_q, sum_valid_q, sum_decrypt_q, judge_q, some_q} = verdict_q;

  always_comb begin
    for (int b = 0; b < 8; b++) begin
      some_d[b] = sum_decrypt_q && sum_q[16*b+:16] != '0;
    end
    verdict_d = {
      ends_q[Latency-2:0],
      end_valid_i,
      gcm_q[Latency-2:0],
      end_gcm_i,
      decrypt_q[Latency-2:0],
      end_decrypt_i,
      ends_q[Latency-1],
      due & decrypt_q[Latency-1],
      sum_valid_q,
      some_d
    };
    if (clear_i) begin
      verdict_d = '0;
    end
  end

  always_ff @(posedge clk_i) begin
    verdict_q <= verdict_d;
    if (clear_i) begin
      seeds_q  <= '0;
      sum_q    <= '0;
      sealed_q <= '0;
    end else begin
      if (!OneSeed || end_valid_i || due) begin
        seeds_q <= SeedBits'({seeds_q, seed});
      end
      sum_q    <= due ? seeds_q[Seeds-1] ^ digest_i : '0;
      sealed_q <= sum_decrypt_q ? '0 : sum_q;
    end
  end

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      fault_q      <= 1'b0;
      wrong_exit_q <= 1'b0;
      wrong_next_q <= 1'b0;
    end else begin
      fault_q      <= digest_valid_i != due;
      wrong_exit_q <= ^{exit_parity_q, exit_record_q};
      wrong_next_q <= fetch & (^{result_parity, result});
    end
  end

  assign judge = judge_q;
  assign mismatch = some_q != '0;

  // ---- Verdicts and tags -----------------------------------------------------------------------

  logic [Entries-1:0] failed_q, failed_d, cut_q, cut_d;

  always_comb begin
    failed_d = failed_q;
    cut_d    = cut_q;
    for (int e = 0; e < Entries; e++) begin
      if (open_i && tail == PlaceBits'(e)) begin
        failed_d[e] = 1'b0;
      end else if (judge && mismatch && at_judge == PlaceBits'(e)) begin
        failed_d[e] = 1'b1;
      end
      if (clear_i) begin
        cut_d[e] = 1'b1;
      end else if (open_i && tail == PlaceBits'(e)) begin
        cut_d[e] = 1'b0;
      end
    end
  end

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      failed_q <= '0;
      cut_q    <= '0;
    end else begin
      failed_q <= failed_d;
      cut_q    <= cut_d;
    end
  end

  logic [127:0] tags[Entries];
  logic [PlaceBits-1:0] wipe_place_q, tag_place;

  assign tag_place = clear_i ? wipe_place_q : at_judge;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      wipe_place_q <= '0;
    end else begin
      wipe_place_q <= wipe_place_q + 1'b1;
    end
  end

  always_ff @(posedge clk_i) begin
    if (clear_i || judge) begin
      tags[tag_place] <= clear_i ? '0 : sealed_q;
    end
  end

  // ---- The oldest ------------------------------------------------------------------------------

  logic [7:0] status;
  logic next_valid_q, next_ok_q, next_failed_q, next_valid_d, next_ok_d, next_failed_d;
  result_t next_q, next_d;
  logic [127:0] next_tag_q;

  always_comb begin
    if (result.status != Ok) begin
      status = result.status;
    end else if (failed_q[head]) begin
      status = drive_crypto_pkg::StatusTagMismatch;
    end else if (cut_q[head]) begin
      status = drive_crypto_pkg::StatusZeroized;
    end else begin
      status = Ok;
    end
  end

  assign fetch = !next_valid_q && head_q != judged_q && !clear_i;

  assign next_valid_d = fetch | (next_valid_q & ~taken_i);

  always_comb begin
    next_d        = next_q;
    next_ok_d     = next_ok_q;
    next_failed_d = next_failed_q;
    if (clear_i) begin
      if (next_ok_q) begin
        next_d.status = drive_crypto_pkg::StatusZeroized;
      end
      next_d.words = '0;
      next_ok_d    = 1'b0;
    end else if (fetch) begin
      next_d.status   = status;
      next_d.op       = result.op;
      next_d.data_len = result.data_len;
      next_d.words    = cut_q[head] ? '0 : result.words;
      next_ok_d       = status == Ok;
      next_failed_d   = status == drive_crypto_pkg::StatusTagMismatch;
    end
  end

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      next_valid_q <= 1'b0;
    end else begin
      next_valid_q <= next_valid_d;
    end
  end

  always_ff @(posedge clk_i) begin
    next_q        <= next_d;
    next_ok_q     <= next_ok_d;
    next_failed_q <= next_failed_d;
    if (clear_i) begin
      next_tag_q <= '0;
    end else if (fetch) begin
      next_tag_q <= tags[head];
    end
  end

  // ---- Twins -----------------------------------------------------------------------------------

  logic wrong_places, wrong_verdict, wrong_next;

  control_twin #(
      .Width($bits(
          {tail_q, exit_q, judged_q, head_q, full_q, failed_q, cut_q, opened_q, opened_place_q}
      ))
  ) u_twin_places (
      .clk_i,
      .rst_ni,
      .next_i ({
        tail_d, exit_d, judged_d, head_d, full_d, failed_d, cut_d, opened_d,
        opened_place_d
      }),
      .held_i ({
        tail_q, exit_q, judged_q, head_q, full_q, failed_q, cut_q, opened_q, opened_place_q
      }),
      .wrong_o(wrong_places)
  );

  control_twin #(
      .Width(VerdictBits)
  ) u_twin_verdict (
      .clk_i,
      .rst_ni,
      .next_i (verdict_d),
      .held_i (verdict_q),
      .wrong_o(wrong_verdict)
  );

  control_twin #(
      .Width($bits({next_valid_q, next_ok_q, next_failed_q, next_q}))
  ) u_twin_next (
      .clk_i,
      .rst_ni,
      .next_i ({next_valid_d, next_ok_d, next_failed_d, next_d}),
      .held_i ({next_valid_q, next_ok_q, next_failed_q, next_q}),
      .wrong_o(wrong_next)
  );

  assign result_valid_o    = next_valid_q;
  assign result_status_o   = next_q.status;
  assign result_op_o       = next_q.op;
  assign result_data_len_o = next_q.data_len;
  assign result_words_o    = next_q.words;
  assign result_tag_o      = next_tag_q;

  assign exit_gcm_o      = exit_record_q.gcm;
  assign exit_decrypt_o  = exit_record_q.decrypt;
  assign exit_aad_len_o  = exit_record_q.aad_len;
  assign exit_data_len_o = exit_record_q.data_len;

  assign free_o       = ~full_q;
  assign empty_o      = tail_q == head_q && !next_valid_q;
  assign counted_o    = taken_i && next_ok_q;
  assign tag_failed_o = taken_i && next_failed_q;
  assign fault_o      = fault_q | wrong_exit_q | wrong_next_q | wrong_places | wrong_verdict |
                        wrong_next;

  // ---- Assertions, in the builds of the benches; ../formal proves more --------------------------

`ifdef RTL_ASSERTIONS
  a_opens :
  assert property (@(posedge clk_i) disable iff (!rst_ni) open_i |-> !full_q && !torn_i);
  a_torn :
  assert property (@(posedge clk_i) disable iff (!rst_ni) torn_i |-> tail_q != exit_q);
  a_taken :
  assert property (@(posedge clk_i) disable iff (!rst_ni) taken_i |-> next_valid_q);
`endif

endmodule
