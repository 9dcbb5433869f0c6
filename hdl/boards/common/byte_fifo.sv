// A few bytes in order: commands that arrive while an answer is still being sent.
//
// Ports: valid/ready on both sides; lost_o for one clock when a byte came and there was no room.
// Latency: one clock.  Throughput: one byte a clock.

module byte_fifo #(
    parameter int unsigned Depth = 16  // a power of two
) (
    input  logic       clk_i,
    input  logic       rst_ni,
    input  logic       valid_i,
    input  logic [7:0] data_i,
    output logic       lost_o,
    output logic       valid_o,
    input  logic       ready_i,
    output logic [7:0] data_o
);

  localparam int unsigned IndexBits = $clog2(Depth);

  logic [7:0] memory[Depth];
  logic [IndexBits:0] head_q, tail_q;
  logic full, write;

  assign full    = (tail_q - head_q) == (IndexBits + 1)'(Depth);
  assign write   = valid_i & ~full;
  assign lost_o  = valid_i & full;
  assign valid_o = head_q != tail_q;
  assign data_o  = memory[head_q[IndexBits-1:0]];

  always_ff @(posedge clk_i) begin
    if (write) memory[tail_q[IndexBits-1:0]] <= data_i;
  end

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      head_q <= '0;
      tail_q <= '0;
    end else begin
      tail_q <= tail_q + (IndexBits + 1)'(write);
      head_q <= head_q + (IndexBits + 1)'(valid_o & ready_i);
    end
  end

endmodule
