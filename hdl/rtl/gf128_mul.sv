// Multiplier in the field of GHASH, GF(2^128), pipelined.
//
// SP 800-38D section 6.3: bit 127 of a block is the coefficient of x^0, and x^128 is
// x^7 + x^2 + x + 1. Two levels of Karatsuba over nine 32-bit products, which are all made in one clock
// or in several turns, as many as a block has clocks to come.
//
// Ports
//   clear_i    zeroes all registers, at one edge; there is no other reset
//   valid_i    a_i, b_i are factors
//   p_o        their product two clocks and ghash_turns later, still to be registered (the last stage)
//
// Latency 3 clocks and a reduction at 16 bytes a clock; 4, 5 and 11 at 8, 4 and 1. Throughput one product
// every 16 / WordBytes clocks.

module gf128_mul #(
    parameter int unsigned WordBytes = 16  // bytes a clock: 16, 8, 4 or 1
) (
    input  logic         clk_i,
    input  logic         clear_i,
    input  logic         valid_i,
    input  logic [127:0] a_i,
    input  logic [127:0] b_i,
    output logic [127:0] p_o
);

  // Stage 1: the factors of nine products. Of 64-bit factors (h, l) Karatsuba needs h, h ^ l and l;
  // of each of these three, the same again.
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

  // Stage 2: the products, Multipliers of them at a time, the lowest first.
  localparam int unsigned Multipliers = drive_crypto_pkg::ghash_multipliers(WordBytes);
  localparam int unsigned Turns = drive_crypto_pkg::ghash_turns(WordBytes);

  localparam int unsigned FactorBits = 32 * Multipliers * Turns;

  logic [Multipliers*Turns-1:0][31:0] a_q, b_q;
  logic [Multipliers*Turns-1:0][63:0] product;  // nine, and a tenth at 8 bytes
  logic [Multipliers-1:0][63:0] made;
  logic [Turns-1:0] turn_q;  // [0]: the factors were just taken
  logic products_q;

  always_ff @(posedge clk_i) begin
    if (clear_i) begin
      products_q <= 1'b0;
      a_q        <= '0;
      b_q        <= '0;
    end else begin
      products_q <= turn_q[Turns-1];
      if (valid_i) begin
        a_q <= FactorBits'(a);
        b_q <= FactorBits'(b);
      end else if (Turns != 1 && turn_q != '0) begin
        a_q <= a_q >> (32 * Multipliers);
        b_q <= b_q >> (32 * Multipliers);
      end
    end
  end

  for (genvar k = 0; k < Multipliers; k++) begin : gen_product
    clmul_32 u_clmul_32 (
        .clk_i,
        .clear_i,
        .en_i(turn_q != '0),
        .a_i (a_q[k]),
        .b_i (b_q[k]),
        .p_o (made[k])
    );
  end

  if (Turns == 1) begin : gen_at_once
    always_ff @(posedge clk_i) begin
      turn_q <= valid_i & ~clear_i;
    end

    assign product = made;
  end else begin : gen_in_turns
    // The products of the earlier turns, the last turn's on top.
    localparam int unsigned EarlierBits = 64 * Multipliers * (Turns - 1);
    logic [EarlierBits-1:0] earlier_q;

    always_ff @(posedge clk_i) begin
      if (clear_i) begin
        turn_q    <= '0;
        earlier_q <= '0;
      end else begin
        turn_q <= {turn_q[Turns-2:0], valid_i};
        if (turn_q != '0) begin
          earlier_q <= EarlierBits'({made, earlier_q} >> (64 * Multipliers));
        end
      end
    end

    assign product = {made, earlier_q};
  end

  if (Multipliers * Turns > 9) begin : gen_tenth
    logic unused_tenth;
    assign unused_tenth = ^product[9];
  end

  // Stage 3: the product, 255 bits, x^0 foremost, and a zero behind it. In words of 64 bits, here and in
  // stage 4: wider ones cost the simulation far more.
  logic [63:0] inner_high, inner_middle, inner_low;

  assign inner_high   = product[8] ^ product[7] ^ product[6];
  assign inner_middle = product[5] ^ product[4] ^ product[3];
  assign inner_low    = product[2] ^ product[1] ^ product[0];

  logic [63:0] high_1, high_0, middle_1, middle_0, low_1, low_0, word_2, word_1;

  assign high_1   = product[8] ^ (inner_high >> 32);
  assign high_0   = product[6] ^ (inner_high << 32);
  assign middle_1 = product[5] ^ (inner_middle >> 32);
  assign middle_0 = product[3] ^ (inner_middle << 32);
  assign low_1    = product[2] ^ (inner_low >> 32);
  assign low_0    = product[0] ^ (inner_low << 32);
  assign word_2   = high_0 ^ middle_1 ^ high_1 ^ low_1;
  assign word_1   = low_1 ^ middle_0 ^ high_0 ^ low_0;

  logic [63:0] wide_3_q, wide_2_q, wide_1_q, wide_0_q;

  always_ff @(posedge clk_i) begin
    if (clear_i) begin
      wide_3_q <= '0;
      wide_2_q <= '0;
      wide_1_q <= '0;
      wide_0_q <= '0;
    end else if (products_q) begin
      wide_3_q <= {high_1[62:0], word_2[63]};
      wide_2_q <= {word_2[62:0], word_1[63]};
      wide_1_q <= {word_1[62:0], low_0[63]};
      wide_0_q <= {low_0[62:0], 1'b0};
    end
  end

  // Stage 4: reduction. Terms from x^128 on, as a block of their own, times x^7 + x^2 + x + 1;
  // what that pushes past x^127 again comes back in the same way, through `folded`.
  logic [63:0] folded;

  assign folded = wide_1_q ^ (wide_0_q << 63) ^ (wide_0_q << 62) ^ (wide_0_q << 57);
  assign p_o[127:64] = wide_3_q ^ folded ^ (folded >> 1) ^ (folded >> 2) ^ (folded >> 7);
  assign p_o[63:0] = wide_2_q ^ wide_0_q ^ {folded[0], wide_0_q[63:1]} ^
      {folded[1:0], wide_0_q[63:2]} ^ {folded[6:0], wide_0_q[63:7]};

endmodule
