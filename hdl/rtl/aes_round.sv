// One round of the AES cipher as two pipeline stages.
//
// FIPS 197 section 5.1: SubBytes (stage 1, S-box ROMs), then ShiftRows, MixColumns and
// AddRoundKey (stage 2). The final round has no MixColumns.
//
// Beside the block goes its parity, of the even rows and of the odd. It is never made from the block
// but carried on: SubBytes changes it by what the ROM says, AddRoundKey by the parity of the key;
// MixColumns sums, over even as over odd rows, {02} times all bytes and once those of these rows.
// So where a bit is wrong, in the block, the ROM's output, the key or the parity itself, parity and
// block disagree from there on to the last round, and one check there is enough. The parity is
// a clock behind its block, so that no path is longer for it.
//
// Ports
//   clear_i    drops what is in flight and zeroes all data registers, at one edge
//   final_i    of a shared round: the block in stage 2 is in the final round;  final_parity_i  so was
//              that of a clock ago, whose parity follows
//   rk_i       this round's key as aes_pkg::to_rows has it, and rk_parity_i; steady while blocks are in flight
//   valid_i    block_i holds a block
//   valid_o    block_o holds a block; both stages stand still between blocks
//   parity_i, parity_o   aes_pkg::block_parity of the block, one clock after it
//
// Latency 2 clocks, throughput one block a clock.

module aes_round #(
    parameter bit FinalRound = 1'b0,
    parameter bit Shared = 1'b0  // serves several rounds: with final_i only it is the final one
) (
    input  logic         clk_i,
    input  logic         rst_ni,
    input  logic         clear_i,
    input  logic         final_i,
    input  logic         final_parity_i,
    input  logic [127:0] rk_i,
    input  logic [  1:0] rk_parity_i,
    input  logic         valid_i,
    input  logic [127:0] block_i,
    input  logic [  1:0] parity_i,
    output logic         valid_o,
    output logic [127:0] block_o,
    output logic [  1:0] parity_o
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
  logic [15:0][1:0] drift;  // what the ROM says of the parity, byte by byte

  for (genvar b = 0; b < 16; b += 2) begin : gen_sub
    aes_sbox_rom u_sbox_rom (
        .clk_i,
        .clear_i,
        .en_i    (valid_i),
        .addr_a_i(block_i[127-8*b-:8]),
        .addr_b_i(block_i[119-8*b-:8]),
        .data_a_o(subbed[b]),
        .data_b_o(subbed[b+1]),
        .parity_a_o(drift[b]),
        .parity_b_o(drift[b+1])
    );
  end

  // Stage 2. A word here holds one row, or two, of all columns, column 0 in bits [63:48]: the
  // simulation sums all columns at once. Row r of the shifted column c comes from column c+r.
  logic [63:0] rows_01, rows_23, rows_01_q, rows_23_q;  // rows 0 and 1, rows 2 and 3
  logic [63:0] row_0, row_1, row_2, row_3;  // {{02} * s, s} of each column

  assign row_0 = {subbed[0], subbed[4], subbed[8], subbed[12]};
  assign row_1 = {subbed[5], subbed[9], subbed[13], subbed[1]};
  assign row_2 = {subbed[10], subbed[14], subbed[2], subbed[6]};
  assign row_3 = {subbed[15], subbed[3], subbed[7], subbed[11]};

  if (FinalRound && Shared) begin : gen_either
    assign rows_01 = final_i ? aes_pkg::join_rows(row_0, row_1)
                             : aes_pkg::mix_rows(row_0, row_1, row_2, row_3);
    assign rows_23 = final_i ? aes_pkg::join_rows(row_2, row_3)
                             : aes_pkg::mix_rows(row_2, row_3, row_0, row_1);
  end else if (FinalRound) begin : gen_plain
    assign rows_01 = aes_pkg::join_rows(row_0, row_1);
    assign rows_23 = aes_pkg::join_rows(row_2, row_3);
  end else begin : gen_mix
    assign rows_01 = aes_pkg::mix_rows(row_0, row_1, row_2, row_3);
    assign rows_23 = aes_pkg::mix_rows(row_2, row_3, row_0, row_1);
  end

  always_ff @(posedge clk_i) begin
    if (clear_i) begin
      rows_01_q <= '0;
      rows_23_q <= '0;
    end else if (valid_sub_q) begin
      rows_01_q <= rows_01 ^ rk_i[127:64];
      rows_23_q <= rows_23 ^ rk_i[63:0];
    end
  end

  // The parity: sums over two columns with stage 2, all of them a clock later.
  logic [1:0] even_left_q, even_right_q, odd_left_q, odd_right_q, parity_sub_q, parity_mix_q;
  logic twice;

  always_ff @(posedge clk_i) begin
    if (clear_i) begin
      even_left_q  <= '0;
      even_right_q <= '0;
      odd_left_q   <= '0;
      odd_right_q  <= '0;
    end else if (valid_sub_q) begin
      even_left_q  <= drift[0] ^ drift[2] ^ drift[4] ^ drift[6];
      even_right_q <= drift[8] ^ drift[10] ^ drift[12] ^ drift[14];
      odd_left_q   <= drift[1] ^ drift[3] ^ drift[5] ^ drift[7];
      odd_right_q  <= drift[9] ^ drift[11] ^ drift[13] ^ drift[15];
    end
  end

  logic parity_final;
  assign parity_final = FinalRound && (!Shared || final_parity_i);

  if (!FinalRound || !Shared) begin : gen_one_kind
    logic unused;
    assign unused = final_i ^ final_parity_i;
  end

  assign twice = !parity_final && ^{even_left_q[1], even_right_q[1], odd_left_q[1], odd_right_q[1]};

  always_ff @(posedge clk_i) begin
    if (clear_i) begin
      parity_sub_q <= '0;
      parity_mix_q <= '0;
    end else begin
      parity_sub_q <= parity_i;
      parity_mix_q <= parity_sub_q ^ rk_parity_i ^ {2{twice}} ^
          {odd_left_q[0] ^ odd_right_q[0], even_left_q[0] ^ even_right_q[0]};
    end
  end

  assign valid_o  = valid_mix_q;
  assign block_o  = aes_pkg::from_rows({rows_01_q, rows_23_q});
  assign parity_o = parity_mix_q;

endmodule
