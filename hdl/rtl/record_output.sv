// Output stage: sends the result frame of each judged record.
//
// A frame is its header; after status OK the data words from the buffer, and on encrypt the tag.
// The words of a record that failed are zeroed unread before the next result is taken. Zeroize cuts a frame that is on its way out: it ends with a header word of StatusZeroized, and
// never has the number of words that its first header promised.
//
// Ports
//   clear_i    zeroize
//   result_*   the oldest judged record;  taken_o  it was taken from the ledger
//   read_*     the oldest word of the buffer, one clock after read_o and steady until the next
//   discard_o  zero the oldest word of the buffer;  discarded_i  done
//   out_*      result frames
//
// Latency 3 clocks from result to its header on out_*, throughput one word a clock, and two
// clocks more a record.

module record_output (
    input  logic         clk_i,
    input  logic         rst_ni,
    input  logic         clear_i,
    input  logic         result_valid_i,
    input  logic [  7:0] result_status_i,
    input  logic [  3:0] result_op_i,
    input  logic [ 18:0] result_data_len_i,
    input  logic [ 14:0] result_words_i,
    input  logic [127:0] result_tag_i,
    output logic         taken_o,
    output logic         read_o,
    input  logic [127:0] read_data_i,
    output logic         discard_o,
    input  logic         discarded_i,
    output logic         busy_o,
    output logic         out_valid_o,
    input  logic         out_ready_i,
    output logic [127:0] out_data_o,
    output logic         out_last_o
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

  // Stage 1 is the buffer's read register, or a word made here; stage 2 is the output register.
  logic fetched_valid_q, fetched_data_q, fetched_last_q;
  logic [127:0] made_q;
  logic out_valid_q, out_last_q;
  logic [127:0] out_q;
  logic begun_q;  // the header of the record was taken by the sink
  logic step_1, step_2, send, send_last, last_word, goes, cut, cut_pads, next_is_last;

  assign step_2 = ~out_valid_q | out_ready_i;
  assign step_1 = ~fetched_valid_q | step_2;
  assign last_word = words_q == 15'd1;
  assign goes = out_valid_q & out_ready_i;

  assign taken_o = state_q == StIdle && !fetched_valid_q && step_2 && result_valid_i &&
                   (!clear_i || result_status_i != Ok);

  // A frame of another status is a header only and holds no secret: zeroize lets it go.
  assign cut = clear_i && status_q == Ok && busy_o && !(goes && out_last_q);

  // Where only the last word is missing, a zero word before the closing one spoils the count.
  always_comb begin
    if (out_valid_q && !out_ready_i) begin
      next_is_last = out_last_q;
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

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      status_q   <= '0;
      op_q       <= '0;
      data_len_q <= '0;
    end else if (cut) begin
      status_q <= drive_crypto_pkg::StatusZeroized;
    end else if (taken_o) begin
      status_q   <= result_status_i;
      op_q       <= result_op_i;
      data_len_q <= result_data_len_i;
    end
  end

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      tag_q <= '0;
    end else if (clear_i) begin
      tag_q <= '0;
    end else if (taken_o) begin
      tag_q <= result_tag_i;
    end
  end

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      words_q <= '0;
    end else if (clear_i) begin
      words_q <= '0;
    end else if (taken_o) begin
      words_q <= result_words_i;
    end else if (read_o || discarded_i) begin
      words_q <= words_q - 15'd1;
    end
  end

  drive_crypto_pkg::record_result_t header;

  always_comb begin
    header          = '0;
    header.status   = status_q;
    header.op       = op_q;
    header.data_len = data_len_q;
  end

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      fetched_valid_q <= 1'b0;
      fetched_data_q  <= 1'b0;
      fetched_last_q  <= 1'b0;
      made_q          <= '0;
    end else if (cut) begin
      fetched_valid_q <= 1'b0;
      made_q          <= '0;
    end else if (step_1) begin
      fetched_valid_q <= send;
      fetched_data_q  <= state_q == StData;
      fetched_last_q  <= send_last;
      made_q          <= state_q == StTag ? tag_q : send ? header : '0;
    end
  end

  // Both stages are zero when they hold nothing: what was sent does not stay.
  logic [127:0] fetched;

  always_comb begin
    unique case ({
      fetched_valid_q, fetched_data_q
    })
      2'b11:   fetched = read_data_i;
      2'b10:   fetched = made_q;
      default: fetched = '0;
    endcase
  end

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      out_valid_q <= 1'b0;
      out_last_q  <= 1'b0;
      out_q       <= '0;
    end else if (cut) begin
      out_valid_q <= cut_pads;
      out_last_q  <= 1'b0;
      out_q       <= '0;
    end else if (step_2) begin
      out_valid_q <= fetched_valid_q;
      out_last_q  <= fetched_last_q;
      out_q       <= fetched;
    end
  end

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      begun_q <= 1'b0;
    end else if (goes) begin
      begun_q <= ~out_last_q;
    end
  end

  assign read_o      = state_q == StData && step_1;
  assign discard_o   = state_q == StDiscard && has_words;
  assign busy_o      = state_q != StIdle || fetched_valid_q || out_valid_q;
  assign out_valid_o = out_valid_q;
  assign out_data_o  = out_q;
  assign out_last_o  = out_last_q;

endmodule
