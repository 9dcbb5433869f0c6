// The frame tracker of the board and the issue stage of the engine always agree on how many words
// of a record are still to come, whatever its header says; so a flush fills up just the record
// under way, and leaves the engine between two records.

module frames_in_step (
    input logic         clk_i,
    input logic         rst_ni,
    input logic         flush_i,
    input logic         in_valid_i,
    input logic [127:0] in_data_i,
    input logic         engine_out_valid_i,
    input logic         engine_out_last_i,
    input logic         out_ready_i,
    input logic         clear_i,
    input logic         accept_i,
    input logic         usable_i,
    input logic         key_valid_i,
    input logic         turn_i,
    input logic         hash_key_i,
    input logic         free_i,
    input logic         room_i,
    input logic         pace_i
);

  logic flushing, valid, ready, last;
  logic [127:0] data;

  frame_tracker u_tracker (
      .clk_i,
      .rst_ni,
      .flush_i,
      .flushing_o        (flushing),
      .in_valid_i,
      .in_data_i,
      .engine_in_valid_o (valid),
      .engine_in_ready_i (ready),
      .engine_in_data_o  (data),
      .engine_in_last_o  (last),
      .engine_out_valid_i,
      .engine_out_last_i,
      .out_ready_i
  );

  record_issue #(
      .BankBytes(65536)
  ) u_issue (
      .clk_i,
      .rst_ni,
      .clear_i,
      .accept_i,
      .usable_i,
      .key_valid_i,
      .turn_i,
      .hash_key_i,
      .in_valid_i(valid),
      .in_ready_o(ready),
      .in_data_i (data),
      .in_last_i (last),
      .free_i,
      .room_i,
      .pace_i
  );

  (* hierconn *) wire [15:0] \u_tracker.left_q ;
  (* hierconn *) wire [2:0] \u_issue.state_q ;
  (* hierconn *) wire \u_issue.torn_q ;
  (* hierconn *) wire [4:0] \u_issue.aad_words_q ;
  (* hierconn *) wire [15:0] \u_issue.data_words_q ;
  (* hierconn *) wire [18:0] \u_issue.data_len_q ;
  (* hierconn *) wire \u_issue.is_decrypt_q ;
  (* hierconn *) wire \u_issue.has_data_q ;
  (* hierconn *) wire \u_issue.last_aad_q ;
  (* hierconn *) wire \u_issue.last_data_q ;
  localparam logic [2:0] StHeader = 3'd0;
  localparam logic [2:0] StAad = 3'd1;
  localparam logic [2:0] StData = 3'd2;
  localparam logic [2:0] StEnd = 3'd3;
  wire [2:0] state = \u_issue.state_q ;
  wire [15:0] left = \u_tracker.left_q ;
  wire [4:0] aad_words = \u_issue.aad_words_q ;
  // The counter leaves out a last word that is not whole.
  wire [18:0] data_len = \u_issue.data_len_q ;
  wire [15:0] data_words = \u_issue.data_words_q + 16'(data_len[3:0] != '0);

  logic started_q;
  initial started_q = 1'b0;

  always_ff @(posedge clk_i) begin
    started_q <= 1'b1;
    if (!started_q) begin
      assume (!rst_ni);
    end
    if (rst_ni && started_q) begin
      a_left: assert (left == (state == StHeader ? 16'd0 : 16'(aad_words) + data_words +
                               16'(\u_issue.is_decrypt_q )));
      // And on its last word: no frame is torn.
      a_whole: assert (!\u_issue.torn_q && state <= StEnd);
      // So no header is ever made of a flush, nor a record begun in the middle of one.
      a_no_header: assert (!flushing || state != StHeader || !valid || !ready);
      i_aad: assert (state == StAad ? aad_words != '0 : state == StHeader || aad_words == '0);
      i_data: assert (state == StData ? data_words != '0 : state == StHeader || state == StAad ||
                      data_words == '0);
      i_last: assert (state == StHeader || (\u_issue.last_aad_q == (aad_words == 5'd1) &&
                                            \u_issue.last_data_q == (data_words == 16'd1)));
      i_has_data: assert (state != StAad || \u_issue.has_data_q == (data_words != '0));
      // A header sets the lengths; no reset does.
      i_range: assert (state == StHeader || (aad_words <= 5'd16 && data_words <= 16'd32768));
    end
  end

endmodule
