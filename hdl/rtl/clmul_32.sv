// Carry-less product of two 32-bit words, registered.
//
// Ports
//   clear_i    zeroes the product; there is no other reset
//   en_i       multiply at this edge; else p_o stays
//   p_o        product of a_i and b_i as polynomials over GF(2), degree 62 at most
//
// Latency 1 clock, throughput one product a clock.

module clmul_32 (
    input  logic        clk_i,
    input  logic        clear_i,
    input  logic        en_i,
    input  logic [31:0] a_i,
    input  logic [31:0] b_i,
    output logic [63:0] p_o
);

  // Two bits of a at a time choose a multiple of b: few word operations in simulation. In gates
  // each such choice is one four-input function a bit, as a sum of two masked words would be.
  logic [63:0] multiples[4];
  logic [63:0] product;

  always_comb begin
    multiples[0] = '0;
    multiples[1] = {32'h0, b_i};
    multiples[2] = {31'h0, b_i, 1'b0};
    multiples[3] = {32'h0, b_i} ^ {31'h0, b_i, 1'b0};
  end

  always_comb begin
    product = '0;
    for (int i = 0; i < 32; i += 2) begin
      product = product ^ (multiples[a_i[i+:2]] << i);
    end
  end

  logic [63:0] p_q;

  always_ff @(posedge clk_i) begin
    if (clear_i) begin
      p_q <= '0;
    end else if (en_i) begin
      p_q <= product;
    end
  end

  assign p_o = p_q;

endmodule
