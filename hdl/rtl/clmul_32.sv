// Carry-less product of two 32-bit words, registered.
//
// Ports
//   clear_i    zeroes the product
//   en_i       multiply at this edge; else p_o stays
//   p_o        product of a_i and b_i as polynomials over GF(2), degree 62 at most
//
// Latency 1 clock, throughput one product a clock.

module clmul_32 (
    input  logic        clk_i,
    input  logic        rst_ni,
    input  logic        clear_i,
    input  logic        en_i,
    input  logic [31:0] a_i,
    input  logic [31:0] b_i,
    output logic [63:0] p_o
);

  // One masked sum a bit: few word operations in simulation, a tree of XOR in gates.
  function automatic logic [63:0] multiply(input logic [31:0] a, input logic [31:0] b);
    multiply = '0;
    for (int i = 0; i < 32; i++) begin
      multiply = multiply ^ (({32'h0, a} << i) & {64{b[i]}});
    end
  endfunction

  logic [63:0] p_q;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      p_q <= '0;
    end else if (clear_i) begin
      p_q <= '0;
    end else if (en_i) begin
      p_q <= multiply(a_i, b_i);
    end
  end

  assign p_o = p_q;

endmodule
