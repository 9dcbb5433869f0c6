// Counts at the engine's record port, outside the gates that are measured: what the engine says of
// itself is compared with it.
//
// Ports
//   clear_i              all to zero
//   in_*, out_*          the record port, watched only
//   word_i               which of the registers below to show
//   register_o           its value; no snapshot, so it is read while nothing moves
//
//   0, 1  busy clocks, low and high word: a record is offered to the engine, or it is taken in
//   2, 3  clocks with records inside, low and high word: from the first word offered to the last word
//         of the last result
//   4     the longest row of clocks in which a word was offered and none moved either way, also where
//         the pace limit holds it back
//   5     the longest time from the end of a frame to the header of its result

module port_counters (
    input  logic        clk_i,
    input  logic        rst_ni,
    input  logic        clear_i,
    input  logic        in_valid_i,
    input  logic        in_ready_i,
    input  logic        in_last_i,
    input  logic        out_valid_i,
    input  logic        out_last_i,
    input  logic [ 2:0] word_i,
    output logic [31:0] register_o
);

  localparam int unsigned Records = 64;  // inside at once, or more; a power of two
  localparam int unsigned PlaceBits = $clog2(Records);

  logic moves, busy, occupied, taking_q, answering_q;
  logic [63:0] clock_q, busy_q, inside_q;
  logic [31:0] row_q, longest_gap_q, longest_latency_q, latency;
  logic [31:0] ended_q[Records];
  logic [31:0] frames_q, ends_q, headers_q, results_q;

  assign moves    = in_valid_i && in_ready_i;
  assign busy     = in_valid_i || taking_q;
  assign occupied = busy || frames_q != results_q;
  assign latency  = clock_q[31:0] - ended_q[headers_q[PlaceBits-1:0]];

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      taking_q          <= 1'b0;
      answering_q       <= 1'b0;
      clock_q           <= '0;
      busy_q            <= '0;
      inside_q          <= '0;
      row_q             <= '0;
      longest_gap_q     <= '0;
      longest_latency_q <= '0;
      frames_q          <= '0;
      ends_q            <= '0;
      headers_q         <= '0;
      results_q         <= '0;
    end else begin
      clock_q <= clock_q + 1;
      if (moves) begin
        taking_q <= !in_last_i;
        if (!taking_q) frames_q <= frames_q + 1;
        if (in_last_i) begin
          ended_q[ends_q[PlaceBits-1:0]] <= clock_q[31:0];
          ends_q                         <= ends_q + 1;
        end
      end
      if (out_valid_i) begin
        answering_q <= !out_last_i;
        if (!answering_q) begin
          headers_q <= headers_q + 1;
          // A frame that is refused may be answered before it ends.
          if (headers_q != ends_q && latency > longest_latency_q) longest_latency_q <= latency;
        end
        if (out_last_i) results_q <= results_q + 1;
      end
      row_q <= in_valid_i && !moves && !out_valid_i ? row_q + 1 : '0;
      if (row_q > longest_gap_q) longest_gap_q <= row_q;
      if (busy) busy_q <= busy_q + 1;
      if (occupied) inside_q <= inside_q + 1;
      if (clear_i) begin
        busy_q            <= '0;
        inside_q          <= '0;
        longest_gap_q     <= '0;
        longest_latency_q <= '0;
      end
    end
  end

  always_comb begin
    unique case (word_i)
      3'd0: register_o = busy_q[31:0];
      3'd1: register_o = busy_q[63:32];
      3'd2: register_o = inside_q[31:0];
      3'd3: register_o = inside_q[63:32];
      3'd4: register_o = longest_gap_q;
      3'd5: register_o = longest_latency_q;
      default: register_o = '0;
    endcase
  end

endmodule
