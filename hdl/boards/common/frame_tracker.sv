// Knows whether the engine is inside a record, and gets it out of one that will never end.
//
// Sits in both streams between the board and the engine. A flush fills the record under way with
// zero words and throws away results until every record that went in has come out.
//
// Ports
//   flush_i          one clock; flushing_o until it is done
//   in_*, out_*      board side;  engine_in_*, engine_out_*: engine side, valid/ready. The last word
//                    of a frame to the engine is marked
//
// Latency: none.  Throughput: one word a clock each way.

module frame_tracker (
    input  logic         clk_i,
    input  logic         rst_ni,
    input  logic         flush_i,
    output logic         flushing_o,
    input  logic         in_valid_i,
    output logic         in_ready_o,
    input  logic [127:0] in_data_i,
    output logic         engine_in_valid_o,
    input  logic         engine_in_ready_i,
    output logic [127:0] engine_in_data_o,
    output logic         engine_in_last_o,
    input  logic         engine_out_valid_i,
    output logic         engine_out_ready_o,
    input  logic         engine_out_last_i,
    output logic         out_valid_o,
    input  logic         out_ready_i
);

  localparam logic [3:0] OpDecrypt = 4'd2;

  logic flushing_q;
  logic [15:0] aad_words, data_words, left;
  logic [15:0] left_q;  // words of the record under way that are still to come
  logic [15:0] inside_q;  // records begun and not yet answered in full
  logic begins, moves, ends;

  // Both lengths rounded up to words, as record_issue.sv counts them.
  assign aad_words  = 16'(in_data_i[123:120]) + 16'(|in_data_i[119:116]);
  assign data_words = 16'(in_data_i[114:100]) + 16'(|in_data_i[99:96]);
  assign left       = aad_words + data_words + 16'(in_data_i[127:124] == OpDecrypt);

  assign engine_in_valid_o  = flushing_q ? left_q != '0 : in_valid_i;
  assign engine_in_data_o   = flushing_q ? '0 : in_data_i;
  assign engine_in_last_o   = left_q == '0 ? left == '0 : left_q == 16'd1;
  assign in_ready_o         = ~flushing_q & engine_in_ready_i;
  assign engine_out_ready_o = flushing_q | out_ready_i;
  assign out_valid_o        = ~flushing_q & engine_out_valid_i;
  assign flushing_o         = flushing_q;

  assign moves  = engine_in_valid_o & engine_in_ready_i;
  assign begins = moves && left_q == '0;
  assign ends   = engine_out_valid_i & engine_out_ready_o & engine_out_last_i;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      flushing_q <= 1'b0;
      left_q     <= '0;
      inside_q   <= '0;
    end else begin
      if (begins) left_q <= left;
      else if (moves) left_q <= left_q - 1'b1;
      inside_q <= inside_q + 16'(begins) - 16'(ends);
      if (flush_i) flushing_q <= 1'b1;
      else if (left_q == '0 && inside_q == '0) flushing_q <= 1'b0;
    end
  end

endmodule
