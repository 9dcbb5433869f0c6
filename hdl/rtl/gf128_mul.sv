// Multiplier in the field of GHASH, GF(2^128), pipelined.
//
// SP 800-38D section 6.3: bit 127 of a block is the coefficient of x^0, and x^128 is
// x^7 + x^2 + x + 1. Two levels of Karatsuba over nine 32-bit products.
//
// Ports
//   clear_i    zeroes all registers, at one edge; there is no other reset
//   valid_i    a_i, b_i are factors, from registers
//   p_o        their product two clocks later, still to be registered (the third stage)
//
// Latency 2 clocks and a reduction, throughput one product a clock.

module gf128_mul (
    input  logic         clk_i,
    input  logic         clear_i,
    input  logic         valid_i,
    input  logic [127:0] a_i,
    input  logic [127:0] b_i,
    output logic [127:0] p_o
);

  // Stage 1: the nine products. Of 64-bit factors (h, l) Karatsuba needs h, h ^ l and l; of each
  // of these three, the same again.
  logic [8:0][31:0] a, b;
  logic [31:0] a_high, a_low, b_high, b_low;

  assign a_high = a_i[127:96] ^ a_i[63:32];
  assign a_low  = a_i[95:64] ^ a_i[31:0];
  assign b_high = b_i[127:96] ^ b_i[63:32];
  assign b_low  = b_i[95:64] ^ b_i[31:0];

  assign a[8]   = a_i[127:96];
  assign a[7]   = a_i[127:96] ^ a_i[95:64];
  assign a[6]   = a_i[95:64];
  assign a[5]   = a_high;
  assign a[4]   = a_high ^ a_low;
  assign a[3]   = a_low;
  assign a[2]   = a_i[63:32];
  assign a[1]   = a_i[63:32] ^ a_i[31:0];
  assign a[0]   = a_i[31:0];

  assign b[8]   = b_i[127:96];
  assign b[7]   = b_i[127:96] ^ b_i[95:64];
  assign b[6]   = b_i[95:64];
  assign b[5]   = b_high;
  assign b[4]   = b_high ^ b_low;
  assign b[3]   = b_low;
  assign b[2]   = b_i[63:32];
  assign b[1]   = b_i[63:32] ^ b_i[31:0];
  assign b[0]   = b_i[31:0];

  logic [8:0][63:0] product;

  for (genvar k = 0; k < 9; k++) begin : gen_product
    clmul_32 u_clmul_32 (
        .clk_i,
        .clear_i,
        .en_i(valid_i),
        .a_i (a[k]),
        .b_i (b[k]),
        .p_o (product[k])
    );
  end

  // Stage 2: the product, 255 bits. Its bit 254 is x^0.
  function automatic logic [127:0] combine(input logic [63:0] high, input logic [63:0] middle,
                                           input logic [63:0] low);
    logic [63:0] inner;
    inner   = middle ^ high ^ low;
    combine = {high[63:32], high[31:0] ^ inner[63:32], low[63:32] ^ inner[31:0], low[31:0]};
  endfunction

  logic valid_q;
  logic [127:0] high, middle, low, inner;
  logic [254:0] wide_q;

  assign high   = combine(product[8], product[7], product[6]);
  assign middle = combine(product[5], product[4], product[3]);
  assign low    = combine(product[2], product[1], product[0]);
  assign inner  = middle ^ high ^ low;

  always_ff @(posedge clk_i) begin
    if (clear_i) begin
      valid_q <= 1'b0;
      wide_q  <= '0;
    end else begin
      valid_q <= valid_i;
      if (valid_q) begin
        wide_q <= {high[126:64], high[63:0] ^ inner[127:64], low[127:64] ^ inner[63:0], low[63:0]};
      end
    end
  end

  // Stage 3: reduction. Terms from x^128 on, as a block of their own, times x^7 + x^2 + x + 1;
  // what that pushes past x^127 again comes back in the same way, through `folded`.
  logic [127:0] over, folded;

  assign over = {wide_q[126:0], 1'b0};
  assign folded = over ^ {over[0], 127'h0} ^ {over[1:0], 126'h0} ^ {over[6:0], 121'h0};
  assign p_o = wide_q[254:127] ^ folded ^ {1'b0, folded[127:1]} ^ {2'b0, folded[127:2]} ^
      {7'b0, folded[127:7]};

endmodule
