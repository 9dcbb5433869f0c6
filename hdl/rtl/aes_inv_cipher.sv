// AES-256 inverse cipher, one block at a time, with its own key expansion.
//
// FIPS 197 section 5.3, key length 256. Each round takes three clocks: InvShiftRows and
// InvSubBytes (S-box ROMs); AddRoundKey; InvMixColumns, but in the last. Time depends on neither key nor block.
// Behind the ROMs, which are slow, there is nothing but the sum with the key, in a register of its own.
//
// Ports
//   clear_i        stops and zeroes everything, round keys included, at one edge
//   key_start_i    takes key_i and expands it
//   key_done_o     one clock: blocks may come
//   start_i        takes block_i; not while busy
//   done_o         one clock: block_o is the block deciphered, and stays until the next start
//   wrong_o        a register of control of the key expansion is not what it was set to
//
// Latency 42 clocks from start_i to done_o, 105 from key_start_i to key_done_o. Throughput one
// block in 42 clocks.

module aes_inv_cipher (
    input  logic         clk_i,
    input  logic         rst_ni,
    input  logic         clear_i,
    input  logic         key_start_i,
    input  logic [255:0] key_i,
    output logic         key_done_o,
    input  logic         start_i,
    input  logic [127:0] block_i,
    output logic         done_o,
    output logic [127:0] block_o,
    output logic         wrong_o
);

  localparam logic [3:0] LastRoundKey = 4'(drive_crypto_pkg::AesRounds);

  logic [drive_crypto_pkg::AesRounds:0][127:0] rk;
  drive_crypto_pkg::key_parities_t unused_parity;
  logic unused_busy;

  aes_key_expand u_key_expand (
      .clk_i,
      .rst_ni,
      .clear_i,
      .start_i(key_start_i),
      .key_i,
      .busy_o (unused_busy),
      .done_o (key_done_o),
      .rk_o   (rk),
      .rk_parity_o(unused_parity),
      .wrong_o
  );

  logic busy_q, add_q, mix_q, done_q, wipe_q, wipe;
  logic [3:0] round_q;  // the round key to be added next
  logic [127:0] state_q, round_key_q, added_q;

  assign wipe = clear_i | wipe_q;

  // First clock of a round: InvShiftRows is in the addresses. Row r of column c comes from column
  // c - r; byte 4c+r of the block is row r of column c. The round key is fetched beside it.
  logic [15:0][7:0] subbed;

  for (genvar c = 0; c < 4; c++) begin : gen_column
    for (genvar r = 0; r < 4; r += 2) begin : gen_row
      localparam int unsigned FromA = 4 * ((c + 4 - r) % 4) + r;
      localparam int unsigned FromB = 4 * ((c + 3 - r) % 4) + r + 1;
      aes_inv_sbox_rom u_inv_sbox_rom (
          .clk_i,
          .clear_i (wipe),
          .en_i    (busy_q & ~add_q & ~mix_q),
          .addr_a_i(state_q[127-8*FromA-:8]),
          .addr_b_i(state_q[127-8*FromB-:8]),
          .data_a_o(subbed[4*c+r]),
          .data_b_o(subbed[4*c+r+1])
      );
    end
  end

  always_ff @(posedge clk_i) begin
    if (wipe) begin
      round_key_q <= '0;
    end else if (busy_q && !add_q && !mix_q) begin
      round_key_q <= aes_pkg::from_rows(rk[round_q]);
    end
  end

  // Second clock: AddRoundKey; third clock: InvMixColumns. The last round has none: its sum is the block.
  logic [127:0] added;

  for (genvar b = 0; b < 16; b++) begin : gen_add
    assign added[127-8*b-:8] = subbed[b] ^ round_key_q[127-8*b-:8];
  end

  always_ff @(posedge clk_i) begin
    if (wipe) begin
      added_q <= '0;
    end else if (add_q) begin
      added_q <= added;
    end
  end

  // No asynchronous reset on data: it leaves a clear to be done at the first edge.
  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      wipe_q <= 1'b1;
    end else begin
      wipe_q <= 1'b0;
    end
  end

  always_ff @(posedge clk_i) begin
    if (wipe) begin
      busy_q  <= 1'b0;
      add_q   <= 1'b0;
      mix_q   <= 1'b0;
      done_q  <= 1'b0;
      round_q <= '0;
      state_q <= '0;
    end else begin
      done_q <= 1'b0;
      if (start_i) begin
        busy_q  <= 1'b1;
        add_q   <= 1'b0;
        mix_q   <= 1'b0;
        round_q <= LastRoundKey - 4'd1;
        state_q <= block_i ^ aes_pkg::from_rows(rk[LastRoundKey]);
      end else if (busy_q) begin
        add_q <= ~add_q & ~mix_q;
        mix_q <= add_q;
        if (add_q) begin
          if (round_q == 4'd0) begin
            mix_q  <= 1'b0;
            busy_q <= 1'b0;
            done_q <= 1'b1;
          end else begin
            round_q <= round_q - 4'd1;
          end
        end
        if (mix_q) begin
          state_q[127:96] <= aes_pkg::inv_mix_column(added_q[127:96]);
          state_q[95:64]  <= aes_pkg::inv_mix_column(added_q[95:64]);
          state_q[63:32]  <= aes_pkg::inv_mix_column(added_q[63:32]);
          state_q[31:0]   <= aes_pkg::inv_mix_column(added_q[31:0]);
        end
      end
    end
  end

  assign done_o  = done_q;
  assign block_o = added_q;

endmodule
