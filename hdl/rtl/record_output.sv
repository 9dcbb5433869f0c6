// Output stage: sends the result frame of each judged record.
//
// A frame is its header; after status OK the data words from the buffer, and on encrypt the tag.
// The words of a record that failed are zeroed unread before the next result is taken. Zeroize cuts
// a frame that is on its way out: it ends with a header word of StatusZeroized, and never has the
// number of words that its first header promised.
//
// Whether the sink is ready decides, in the same clock, about the two registers at the end, but neither
// about the reading of the buffer nor about taking the next result, which waits until all are empty.
//
// Ports
//   clear_i    zeroize;  fault_i  comes before it when a check failed: nothing leaves until then
//   result_*   the oldest judged record;  taken_o  it was taken from the ledger
//   read_*     the oldest word of the buffer, one clock after read_o and steady until the next
//   discard_o  zero the oldest word of the buffer;  discarded_i  done
//   out_*      result frames
//   wrong_o    a word is not what was written, or a register of control not what it was set to
//
// Latency 4 clocks from result to its header on out_*, throughput one word a clock, and four
// clocks more a record.

module record_output (
    input  logic         clk_i,
    input  logic         rst_ni,
    input  logic         clear_i,
    input  logic         fault_i,
    input  logic         result_valid_i,
    input  logic [  7:0] result_status_i,
    input  logic [  3:0] result_op_i,
    input  logic [ 18:0] result_data_len_i,
    input  logic [ 14:0] result_words_i,
    input  logic [127:0] result_tag_i,
    output logic         taken_o,
    output logic         read_o,
    input  logic [127:0] read_data_i,
    input  logic [  3:0] read_parity_i,
    output logic         discard_o,
    input  logic         discarded_i,
    output logic         busy_o,
    output logic         out_valid_o,
    input  logic         out_ready_i,
    output logic [127:0] out_data_o,
    output logic         out_last_o,
    output logic         wrong_o
);

  localparam logic [7:0] Ok = drive_crypto_pkg::StatusOk;
  localparam logic [3:0] OpEncrypt = drive_crypto_pkg::OpEncrypt;

  typedef enum logic [2:0] {
    StIdle,
    StHeader,
    StData,
    StTag,
    StDiscard,
    StCut
  } state_e;

  state_e state_q, state_d;

  // The record on its way out.
  logic [7:0] status_q;
  logic [3:0] op_q;
  logic [18:0] data_len_q;
  logic [127:0] tag_q;
  logic [14:0] words_q;  // of it that are in the buffer
  logic has_words, has_data, has_tag;

  assign has_words = words_q != '0;
  assign has_data  = has_words && status_q == Ok;
  assign has_tag   = status_q == Ok && op_q == OpEncrypt;

  // Stage 1 is the buffer's read register, or a word made here; stage 2 takes either; stage 3 is the
  // output register, and a spare for what comes in the clock in which the sink is found not ready.
  logic fetched_valid_q, fetched_data_q, fetched_last_q;
  logic [127:0] made_q;
  logic held_valid_q, held_last_q;
  logic [127:0] held_q;
  logic spare_valid_q, spare_last_q;
  logic [127:0] spare_q;
  logic out_valid_q, out_last_q;
  logic [127:0] out_q;
  logic begun_q;  // the header of the record was taken by the sink
  logic step_1, step_2, step_3, leaves, send, send_last, last_word, goes, cut, cut_pads;
  logic next_is_last, accepted;
  logic wipe;  // the words, in a cut; what else it comes with holds no word
  logic hold;  // what is about to leave may be wrong

  assign accepted = out_ready_i & ~hold;
  assign leaves = ~out_valid_q | accepted;
  assign step_3 = ~spare_valid_q;
  assign step_2 = ~held_valid_q | step_3;
  assign step_1 = ~fetched_valid_q | step_2;
  assign last_word = words_q == 15'd1;
  assign goes = out_valid_q & accepted;

  assign taken_o = !busy_o && result_valid_i && !clear_i;

  // A frame of another status is a header only and holds no secret: zeroize lets it go.
  assign cut = clear_i && status_q == Ok && busy_o && !(goes && out_last_q);
  assign wipe = clear_i && status_q == Ok;

  // Where only the last word is missing, a zero word before the closing one spoils the count.
  always_comb begin
    if (out_valid_q && !accepted) begin
      next_is_last = out_last_q;
    end else if (spare_valid_q) begin
      next_is_last = spare_last_q;
    end else if (held_valid_q) begin
      next_is_last = held_last_q;
    end else if (fetched_valid_q) begin
      next_is_last = fetched_last_q;
    end else begin
      next_is_last = send_last;
    end
  end

  assign cut_pads = next_is_last & (begun_q | goes);

  always_comb begin
    state_d   = state_q;
    send      = 1'b0;
    send_last = 1'b0;
    unique case (state_q)
      StIdle: begin
        if (taken_o) begin
          state_d = StHeader;
        end
      end
      StHeader: begin
        send      = 1'b1;
        send_last = ~has_data & ~has_tag;
        if (step_1) begin
          state_d = has_data ? StData : has_tag ? StTag : has_words ? StDiscard : StIdle;
        end
      end
      StData: begin
        send      = 1'b1;
        send_last = last_word & ~has_tag;
        if (step_1 && last_word) begin
          state_d = has_tag ? StTag : StIdle;
        end
      end
      StTag, StCut: begin
        send      = 1'b1;
        send_last = 1'b1;
        if (step_1) begin
          state_d = StIdle;
        end
      end
      StDiscard: begin
        if (!has_words) begin
          state_d = StIdle;
        end
      end
      default: state_d = StIdle;
    endcase
    if (cut) begin
      state_d = StCut;
    end
  end

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      state_q <= StIdle;
    end else begin
      state_q <= state_d;
    end
  end

  logic [7:0] status_d;
  logic [3:0] op_d;
  logic [18:0] data_len_d;
  logic [14:0] words_d;

  always_comb begin
    status_d   = status_q;
    op_d       = op_q;
    data_len_d = data_len_q;
    words_d    = words_q;
    if (cut) begin
      status_d = drive_crypto_pkg::StatusZeroized;
    end else if (taken_o) begin
      status_d   = result_status_i;
      op_d       = result_op_i;
      data_len_d = result_data_len_i;
    end
    if (clear_i) begin
      words_d = '0;
    end else if (taken_o) begin
      words_d = result_words_i;
    end else if (read_o || discarded_i) begin
      words_d = words_q - 15'd1;
    end
  end

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      status_q   <= '0;
      op_q       <= '0;
      data_len_q <= '0;
      words_q    <= '0;
    end else begin
      status_q   <= status_d;
      op_q       <= op_d;
      data_len_q <= data_len_d;
      words_q    <= words_d;
    end
  end

  always_ff @(posedge clk_i) begin
    if (clear_i) begin
      tag_q <= '0;
    end else if (taken_o) begin
      tag_q <= result_tag_i;
    end
  end

  drive_crypto_pkg::record_result_t header;

  always_comb begin
    header          = '0;
    header.status   = status_q;
    header.op       = op_q;
    header.data_len = data_len_q;
  end

  logic fetched_valid_d, fetched_data_d, fetched_last_d, held_valid_d, held_last_d;
  logic spare_valid_d, spare_last_d, out_valid_d, out_last_d, begun_d;

  always_comb begin
    fetched_valid_d = fetched_valid_q;
    fetched_data_d  = fetched_data_q;
    fetched_last_d  = fetched_last_q;
    held_valid_d    = held_valid_q;
    held_last_d     = held_last_q;
    spare_valid_d   = spare_valid_q;
    spare_last_d    = spare_last_q;
    out_valid_d     = out_valid_q;
    out_last_d      = out_last_q;
    if (step_1) begin
      fetched_valid_d = send;
      fetched_data_d  = state_q == StData;
      fetched_last_d  = send_last;
    end
    if (step_2) begin
      held_valid_d = fetched_valid_q;
      held_last_d  = fetched_last_q;
    end
    if (step_3) begin
      spare_last_d = held_last_q;
    end
    if (leaves) begin
      spare_valid_d = 1'b0;
      out_valid_d   = spare_valid_q | held_valid_q;
      out_last_d    = spare_valid_q ? spare_last_q : held_last_q;
    end else if (step_3) begin
      spare_valid_d = held_valid_q;
    end
    if (cut) begin
      {fetched_valid_d, fetched_data_d, fetched_last_d} = '0;
      {held_valid_d, held_last_d, spare_valid_d, spare_last_d} = '0;
      out_valid_d = cut_pads;
      out_last_d  = 1'b0;
    end
  end

  assign begun_d = goes ? ~out_last_q : begun_q;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      fetched_valid_q <= 1'b0;
      fetched_data_q  <= 1'b0;
      held_valid_q    <= 1'b0;
      spare_valid_q   <= 1'b0;
      out_valid_q     <= 1'b0;
      begun_q         <= 1'b0;
    end else begin
      fetched_valid_q <= fetched_valid_d;
      fetched_data_q  <= fetched_data_d;
      held_valid_q    <= held_valid_d;
      spare_valid_q   <= spare_valid_d;
      out_valid_q     <= out_valid_d;
      begun_q         <= begun_d;
    end
  end

  always_ff @(posedge clk_i) begin
    fetched_last_q <= fetched_last_d;
    held_last_q    <= held_last_d;
    spare_last_q   <= spare_last_d;
    out_last_q     <= out_last_d;
  end

  // What the stages hold, and its parity. They are zero when they hold nothing: what was sent does
  // not stay.
  logic [127:0] made, fetched;
  logic [3:0] fetched_parity, made_parity_q, held_parity_q, spare_parity_q, out_parity_q;

  // Zero where it is no word: the buffer's block RAMs are slow, so next to nothing lies behind them.
  always_comb begin
    unique case (state_q)
      StHeader, StCut: made = header;
      StTag:           made = tag_q;
      default:         made = '0;
    endcase
  end

  assign fetched = made_q | (fetched_data_q ? read_data_i : '0);
  assign fetched_parity = made_parity_q | (fetched_data_q ? read_parity_i : '0);

  always_ff @(posedge clk_i) begin
    if (wipe) begin
      made_q        <= '0;
      made_parity_q <= '0;
    end else if (step_1) begin
      made_q        <= made;
      made_parity_q <= record_pkg::block_parities(made);
    end
  end

  always_ff @(posedge clk_i) begin
    if (wipe) begin
      held_q         <= '0;
      held_parity_q  <= '0;
      spare_q        <= '0;
      spare_parity_q <= '0;
      out_q          <= '0;
      out_parity_q   <= '0;
    end else begin
      if (step_2) begin
        held_q        <= fetched;
        held_parity_q <= fetched_parity;
      end
      if (step_3) begin
        spare_q        <= held_q;
        spare_parity_q <= held_parity_q;
      end
      if (leaves) begin
        out_q        <= spare_valid_q ? spare_q : held_q;
        out_parity_q <= spare_valid_q ? spare_parity_q : held_parity_q;
      end
    end
  end

  // ---- Checks ----------------------------------------------------------------------------------

  // A word that is not what its parities say, and what comes with a register that is not what it was
  // set to, is kept back until the fault that this raises has cut the frame: a wrong one does not
  // leave whole. A bit that flips in the last register is reported too late to keep it.
  logic wrong_held_q, wrong_out_q, wrong_record, wrong_stages, zeroized_q;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      wrong_held_q <= 1'b0;
      wrong_out_q  <= 1'b0;
      zeroized_q  <= 1'b0;
    end else begin
      wrong_held_q <= held_valid_q & record_pkg::parity_wrong(held_q, held_parity_q);
      wrong_out_q  <= out_valid_q & record_pkg::parity_wrong(out_q, out_parity_q);
      zeroized_q  <= fault_i & (zeroized_q | clear_i);
    end
  end

  assign hold = wrong_held_q | wrong_record | wrong_stages | (fault_i & ~zeroized_q);

  control_twin #(
      .Width($bits({state_q, status_q, op_q, data_len_q, words_q}))
  ) u_twin_record (
      .clk_i,
      .rst_ni,
      .next_i ({state_d, status_d, op_d, data_len_d, words_d}),
      .held_i ({state_q, status_q, op_q, data_len_q, words_q}),
      .wrong_o(wrong_record)
  );

  control_twin #(
      .Width($bits(
          {
            fetched_valid_q,
            fetched_data_q,
            fetched_last_q,
            held_valid_q,
            held_last_q,
            spare_valid_q,
            spare_last_q,
            out_valid_q,
            out_last_q,
            begun_q
          }
      ))
  ) u_twin_stages (
      .clk_i,
      .rst_ni,
      .next_i ({fetched_valid_d, fetched_data_d, fetched_last_d, held_valid_d, held_last_d,
                spare_valid_d, spare_last_d, out_valid_d, out_last_d, begun_d}),
      .held_i ({fetched_valid_q, fetched_data_q, fetched_last_q, held_valid_q, held_last_q,
                spare_valid_q, spare_last_q, out_valid_q, out_last_q, begun_q}),
      .wrong_o(wrong_stages)
  );

  assign read_o      = state_q == StData && step_1;
  assign discard_o   = state_q == StDiscard && has_words;
  assign busy_o      = state_q != StIdle || fetched_valid_q || held_valid_q || spare_valid_q ||
                       out_valid_q;
  assign out_valid_o = out_valid_q & ~hold;
  assign out_data_o  = out_q;
  assign out_last_o  = out_last_q;
  assign wrong_o     = wrong_held_q | wrong_out_q | wrong_record | wrong_stages;

  // ---- Assertions, in the builds of the benches; ../formal proves more --------------------------

`ifdef RTL_ASSERTIONS
  // What is offered stays, but in a zeroize and while a check keeps it back.
  a_offered :
  assert property (@(posedge clk_i) disable iff (!rst_ni)
                   out_valid_o && !out_ready_i && !clear_i |=> out_valid_o || hold);
`endif

endmodule
