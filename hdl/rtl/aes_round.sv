// One round of the AES cipher as two pipeline stages.
//
// FIPS 197 section 5.1: SubBytes (stage 1, S-box ROMs), then ShiftRows, MixColumns and
// AddRoundKey (stage 2). The final round has no MixColumns.
//
// Ports
//   clear_i    drops what is in flight and zeroes all data registers, at one edge
//   rk_i       this round's key; steady while blocks are in flight
//   valid_i    block_i holds a block
//   valid_o    block_o holds a block; both stages stand still between blocks
//
// Latency 2 clocks, throughput one block a clock.

module aes_round #(
    parameter bit FinalRound = 1'b0
) (
    input  logic         clk_i,
    input  logic         rst_ni,
    input  logic         clear_i,
    input  logic [127:0] rk_i,
    input  logic         valid_i,
    input  logic [127:0] block_i,
    output logic         valid_o,
    output logic [127:0] block_o
);

  logic valid_sub_q, valid_mix_q;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      valid_sub_q <= 1'b0;
      valid_mix_q <= 1'b0;
    end else if (clear_i) begin
      valid_sub_q <= 1'b0;
      valid_mix_q <= 1'b0;
    end else begin
      valid_sub_q <= valid_i;
      valid_mix_q <= valid_sub_q;
    end
  end

  // Stage 1: SubBytes. Byte 4c+r of the block is row r of column c.
  logic [15:0][15:0] subbed;

  for (genvar b = 0; b < 16; b += 2) begin : gen_sub
    aes_sbox_rom u_sbox_rom (
        .clk_i,
        .clear_i,
        .en_i    (valid_i),
        .addr_a_i(block_i[127-8*b-:8]),
        .addr_b_i(block_i[119-8*b-:8]),
        .data_a_o(subbed[b]),
        .data_b_o(subbed[b+1])
    );
  end

  // Stage 2: row r of the shifted column c comes from column c+r.
  logic [127:0] mixed;

  for (genvar c = 0; c < 4; c++) begin : gen_column
    localparam int unsigned R0 = 4 * c;
    localparam int unsigned R1 = 4 * ((c + 1) % 4) + 1;
    localparam int unsigned R2 = 4 * ((c + 2) % 4) + 2;
    localparam int unsigned R3 = 4 * ((c + 3) % 4) + 3;

    if (FinalRound) begin : gen_plain
      assign mixed[127-32*c-:32] = {
        subbed[R0][7:0], subbed[R1][7:0], subbed[R2][7:0], subbed[R3][7:0]
      };
      logic unused_twice;
      assign unused_twice = ^{subbed[R0][15:8], subbed[R1][15:8],
                              subbed[R2][15:8], subbed[R3][15:8]};
    end else begin : gen_mix
      assign mixed[127-32*c-:32] = aes_pkg::mix_column(
          {subbed[R0], subbed[R2]}, {subbed[R1], subbed[R3]}
      );
    end
  end

  logic [127:0] block_q;

  always_ff @(posedge clk_i) begin
    if (clear_i) begin
      block_q <= '0;
    end else if (valid_sub_q) begin
      block_q <= mixed ^ rk_i;
    end
  end

  assign valid_o = valid_mix_q;
  assign block_o = block_q;

endmodule
