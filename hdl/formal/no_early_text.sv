// No word of a deciphered record leaves before its tag has matched.
//
// Ledger and output stage as in drive_crypto, with four places; everything around them is free but
// for what they may count on. The wrapper keeps a verdict of its own for each place, from the
// seeds and digests as they come in, and looks at every text word on its way out.

module no_early_text #(
    parameter int unsigned WordBytes = 16
) (
    input logic         clk_i,
    input logic         rst_ni,
    input logic         clear_i,
    input logic         fault_i,
    input logic         open_i,
    input logic [7:0]   open_status_i,
    input logic [3:0]   open_op_i,
    input logic [7:0]   open_aad_len_i,
    input logic [18:0]  open_data_len_i,
    input logic [14:0]  open_words_i,
    input logic         torn_i,
    input logic [14:0]  torn_words_i,
    input logic         inside_i,
    input logic         exit_last_i,
    input logic         end_valid_i,
    input logic [127:0] end_seed_i,
    input logic         digest_valid_i,
    input logic [127:0] digest_i,
    input logic [127:0] read_data_i,
    input logic [3:0]   read_parity_i,
    input logic         discarded_i,
    input logic         out_ready_i
);

  localparam int unsigned Latency = drive_crypto_pkg::ghash_latency(WordBytes);
  localparam logic [7:0] Ok = drive_crypto_pkg::StatusOk;
  localparam logic [3:0] OpDecrypt = drive_crypto_pkg::OpDecrypt;
  localparam logic [3:0] OpBypass = drive_crypto_pkg::OpBypass;

  logic free, result_valid, taken;
  logic [7:0] result_status;
  logic [3:0] result_op;
  logic [18:0] result_data_len;
  logic [14:0] result_words;
  logic [127:0] result_tag;
  logic end_gcm, end_decrypt;

  record_ledger #(
      .Entries  (4),
      .WordBytes(WordBytes)
  ) u_ledger (
      .clk_i,
      .rst_ni,
      .clear_i,
      .open_i,
      .open_status_i,
      .open_op_i,
      .open_aad_len_i,
      .open_data_len_i,
      .open_words_i,
      .torn_i,
      .torn_words_i,
      .inside_i,
      .exit_last_i,
      .end_valid_i,
      .end_gcm_i        (end_gcm),
      .end_decrypt_i    (end_decrypt),
      .end_seed_i,
      .digest_valid_i,
      .digest_i,
      .free_o           (free),
      .result_valid_o   (result_valid),
      .result_status_o  (result_status),
      .result_op_o      (result_op),
      .result_data_len_o(result_data_len),
      .result_words_o   (result_words),
      .result_tag_o     (result_tag),
      .taken_i          (taken)
  );

  record_output u_output (
      .clk_i,
      .rst_ni,
      .clear_i,
      .fault_i,
      .result_valid_i   (result_valid),
      .result_status_i  (result_status),
      .result_op_i      (result_op),
      .result_data_len_i(result_data_len),
      .result_words_i   (result_words),
      .result_tag_i     (result_tag),
      .taken_o          (taken),
      .read_data_i,
      .read_parity_i,
      .discarded_i,
      .out_ready_i
  );

  (* hierconn *) wire [2:0] \u_ledger.tail_q ;
  (* hierconn *) wire [2:0] \u_ledger.judged_q ;
  (* hierconn *) wire [2:0] \u_ledger.head_q ;
  (* hierconn *) wire [Latency-1:0] \u_ledger.ends_q ;
  (* hierconn *) wire \u_ledger.sum_valid_q ;
  (* hierconn *) wire \u_ledger.judge_q ;
  (* hierconn *) wire \u_ledger.fetch ;
  (* hierconn *) wire \u_ledger.next_ok_q ;
  (* hierconn *) wire [3:0] \u_ledger.failed_q ;
  (* hierconn *) wire [3:0] \u_ledger.cut_q ;
  (* hierconn *) wire \u_output.fetched_valid_q ;
  (* hierconn *) wire \u_output.fetched_data_q ;
  (* hierconn *) wire \u_output.held_valid_q ;
  (* hierconn *) wire \u_output.spare_valid_q ;
  (* hierconn *) wire [127:0] \u_output.held_q ;
  (* hierconn *) wire [127:0] \u_output.spare_q ;
  (* hierconn *) wire \u_output.step_2 ;
  (* hierconn *) wire \u_output.step_3 ;
  (* hierconn *) wire \u_output.leaves ;
  (* hierconn *) wire \u_output.cut ;
  (* hierconn *) wire \u_output.read_o ;
  (* hierconn *) wire [127:0] \u_output.out_q ;
  (* hierconn *) wire [2:0] \u_output.state_q ;
  (* hierconn *) wire [7:0] \u_output.status_q ;
  localparam logic [2:0] StHeader = 3'd1;
  localparam logic [2:0] StData = 3'd2;
  wire [2:0] output_state = \u_output.state_q ;
  wire [2:0] tail = \u_ledger.tail_q ;
  wire [2:0] judged = \u_ledger.judged_q ;
  wire [2:0] head = \u_ledger.head_q ;
  wire [Latency-1:0] ends = \u_ledger.ends_q ;

  // Records that were begun and have not ended: from judgement on, less those beside GHASH.
  logic [4:0] beside;

  always_comb begin
    beside = 5'(\u_ledger.sum_valid_q ) + 5'(\u_ledger.judge_q );
    for (int i = 0; i < Latency; i++) begin
      beside = beside + 5'(ends[i]);
    end
  end

  wire [2:0] known = tail - head;
  wire [2:0] unjudged = tail - judged;
  wire [2:0] unended = unjudged - beside[2:0];
  wire [2:0] end_place = judged + beside[2:0];

  // Clocks since a record ended: they are as far apart as words, which records_in_step proves.
  localparam logic [4:0] WordClocks = 5'(drive_crypto_pkg::word_clocks(WordBytes));
  logic [4:0] since_q;

  // What the wrapper knows of each place.
  logic [3:0][3:0] op_q;
  logic [3:0] good_q;

  // The exit stage hands on what the record's header said.
  assign end_gcm = op_q[end_place[1:0]] != OpBypass;
  assign end_decrypt = op_q[end_place[1:0]] == OpDecrypt;

  // What the ledger may count on: places are opened when free, records end once and in order.
  always_comb begin
    assume (!open_i || (free && !inside_i));
    assume (!torn_i || (!open_i && unended != '0));
    assume (!end_valid_i || (unended != '0 && since_q >= WordClocks));
    assume (!inside_i || unended != '0);
    assume (rst_ni || clear_i);  // reset comes with it
  end

  // The verdict as the wrapper reaches it, beside the ledger.
  logic [Latency-1:0][127:0] seeds_q;
  logic [127:0] sum_q;
  logic sum_zero_q, next_good_q;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      since_q <= WordClocks;
      op_q    <= '0;
      good_q  <= '0;
      seeds_q <= '0;
      sum_q   <= '0;
      sum_zero_q  <= 1'b0;
      next_good_q <= 1'b0;
    end else begin
      since_q <= end_valid_i ? 5'd1 : since_q < WordClocks ? since_q + 5'd1 : since_q;
      seeds_q <= {seeds_q[Latency-2:0], end_seed_i};
      sum_q   <= seeds_q[Latency-1] ^ digest_i;
      sum_zero_q <= sum_q == '0;
      if (\u_ledger.judge_q ) begin
        good_q[judged[1:0]] <= op_q[judged[1:0]] != OpDecrypt || sum_zero_q;
      end
      if (\u_ledger.fetch ) begin
        next_good_q <= good_q[head[1:0]];
      end
      if (open_i) begin
        op_q[tail[1:0]]   <= open_op_i;
        good_q[tail[1:0]] <= 1'b0;
      end
    end
  end

  // Of the record on its way out: whether its words may leave; and which stages of the output hold
  // text.
  logic may_leave_q, held_text_q, spare_text_q, out_text_q;
  wire text_comes = \u_output.fetched_valid_q && \u_output.fetched_data_q ;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      may_leave_q <= 1'b0;
      held_text_q  <= 1'b0;
      spare_text_q <= 1'b0;
      out_text_q   <= 1'b0;
    end else begin
      if (taken) begin
        may_leave_q <= result_status == Ok && next_good_q;
      end
      if (\u_output.cut ) begin
        held_text_q  <= 1'b0;
        spare_text_q <= 1'b0;
        out_text_q   <= 1'b0;
      end else begin
        if (\u_output.step_2 ) held_text_q <= text_comes;
        if (\u_output.step_3 ) spare_text_q <= held_text_q;
        if (\u_output.leaves ) out_text_q <= \u_output.spare_valid_q ? spare_text_q : held_text_q;
      end
    end
  end

  logic was_reset_q;
  initial was_reset_q = 1'b0;

  always_ff @(posedge clk_i) begin
    was_reset_q <= 1'b1;
    if (!was_reset_q) begin
      assume (!rst_ni);
    end
    if (rst_ni) begin
      // A result that says OK had its tag matched, or needed none.
      a_verdict: assert (!result_valid || result_status != Ok || next_good_q);
      // The buffer is read, and a word of it is on its way, for such a record only.
      a_read: assert (!\u_output.read_o || may_leave_q);
      a_fetched: assert (!text_comes || may_leave_q);
      a_held: assert (!held_text_q || may_leave_q || \u_output.held_q == '0);
      a_spare: assert (!spare_text_q || may_leave_q || \u_output.spare_q == '0);
      i_held: assert (!held_text_q || \u_output.held_valid_q );
      a_out: assert (!out_text_q || may_leave_q || \u_output.out_q == '0);
      // Why: the header and data states are for records whose verdict was seen when taken.
      i_sends: assert (!(output_state == StHeader || output_state == StData) || \u_output.status_q != Ok || may_leave_q);
      i_data: assert (output_state != StData || \u_output.status_q == Ok);
      // Pointers: never more records than places, none judged that is not there.
      i_places: assert (known <= 3'd4);
      i_full: assert (free == (known != 3'd4));
      i_next: assert (!result_valid || \u_ledger.next_ok_q == (result_status == Ok));
      i_judged: assert (unjudged <= known);
      i_beside: assert (beside <= 5'(unjudged));
      i_apart: assert (&apart);
      i_good: assert (i_good_place[0] && i_good_place[1] && i_good_place[2] && i_good_place[3]);
    end
  end

  // An end that is so many clocks old is the last one, or at least a word older.
  logic [Latency-1:0] apart;
  for (genvar i = 0; i < Latency; i++) begin : gen_end
    localparam logic [5:0] Age = 6'(i + 1);
    wire [5:0] since = {1'b0, since_q};
    assign apart[i] = !ends[i] || Age >= since + 6'(WordClocks) ||
                      (since_q == WordClocks ? Age >= since : Age == since);
  end

  // Of the judged places, those neither failed nor cut are good.
  logic [3:0] i_good_place;
  for (genvar e = 0; e < 4; e++) begin : gen_place
    wire [1:0] from_head = 2'(e) - head[1:0];
    wire is_judged = {1'b0, from_head} < judged - head;
    assign i_good_place[e] = !is_judged || \u_ledger.failed_q [e] || \u_ledger.cut_q [e] ||
                             good_q[e];
  end

endmodule
