// AES-256 forward cipher, pipelined: a block every 16 / WordBytes clocks.
//
// FIPS 197 section 5.1, key length 256. The pipeline never stalls: what enters leaves aes_latency clocks
// later. Between blocks its stages stand still and keep what they held. At the full width each round has
// a place of its own (aes_round), else as many rounds share one as a word has clocks (aes_rounds).
//
// Ports
//   phase_i    of word_phase. Blocks come one clock behind the issue stage's phase 0, and at no other
//   clear_i    drops all blocks in flight and zeroes all data registers, at one edge
//   rk_i       the round keys, [0] first, each as aes_pkg::to_rows has it, and their parities; steady
//              while blocks are in flight
//   valid_i    block_i is a block to encrypt;  parity_i  aes_pkg::block_parity of what it should be
//   valid_o    block_o is a block encrypted
//   wrong_o    one clock, four after valid_o: that block is not what block, keys and tables make
//
// Latency drive_crypto_pkg::aes_latency: 29 clocks at 16 bytes a clock, else 43. Throughput
// WordBytes a clock.

module aes_pipe #(
    parameter int unsigned WordBytes = 16  // bytes a clock: 16, 8, 4 or 1
) (
    input  logic                                        clk_i,
    input  logic                                        rst_ni,
    input  logic                                        clear_i,
    input  logic [                          3:0]        phase_i,
    input  logic [drive_crypto_pkg::AesRounds:0][127:0] rk_i,
    input  logic [drive_crypto_pkg::AesRounds:0][  1:0] rk_parity_i,
    input  logic                                        valid_i,
    input  logic [                        127:0]        block_i,
    input  logic [                          1:0]        parity_i,
    output logic                                        valid_o,
    output logic [                        127:0]        block_o,
    output logic                                        wrong_o
);

  localparam int unsigned Rounds = drive_crypto_pkg::AesRounds;

  // Data registers have no reset of their own (block RAM outputs cannot have an asynchronous one
  // beside the synchronous one): reset leaves a clear to be done at the first edge.
  logic wipe_q, wipe;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      wipe_q <= 1'b1;
    end else begin
      wipe_q <= 1'b0;
    end
  end

  assign wipe = clear_i | wipe_q;

  logic whitened_valid_q;
  logic [127:0] whitened_q;
  logic [1:0] parity_in_q, parity_whitened_q;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      whitened_valid_q <= 1'b0;
    end else begin
      whitened_valid_q <= valid_i & ~wipe;
    end
  end

  always_ff @(posedge clk_i) begin
    if (wipe) begin
      whitened_q <= '0;
    end else if (valid_i) begin
      whitened_q <= block_i ^ aes_pkg::from_rows(rk_i[0]);
    end
  end

  // The parity is one clock behind.
  always_ff @(posedge clk_i) begin
    if (wipe) begin
      parity_in_q       <= '0;
      parity_whitened_q <= '0;
    end else begin
      if (valid_i) begin
        parity_in_q <= parity_i;
      end
      parity_whitened_q <= parity_in_q ^ rk_parity_i[0];
    end
  end

  localparam int unsigned Shares = drive_crypto_pkg::word_clocks(WordBytes);  // rounds of a unit
  localparam int unsigned Units = (Rounds + Shares - 1) / Shares;
  localparam int unsigned LastShares = Rounds - (Units - 1) * Shares;

  logic [Units:0] valid;
  logic [Units:0][127:0] state;
  logic [1:0] parity[Units+1];

  assign valid[0]  = whitened_valid_q;
  assign state[0]  = whitened_q;
  assign parity[0] = parity_whitened_q;

  // One round a unit, or several.
  for (genvar r = 1; r <= (Shares == 1 ? Rounds : 0); r++) begin : gen_round
    aes_round #(
        .FinalRound(r == Rounds)
    ) u_round (
        .clk_i,
        .rst_ni,
        .clear_i(wipe),
        .final_i(1'b0),
        .final_parity_i(1'b0),
        .rk_i   (rk_i[r]),
        .rk_parity_i(rk_parity_i[r]),
        .valid_i(valid[r-1]),
        .block_i(state[r-1]),
        .parity_i(parity[r-1]),
        .valid_o(valid[r]),
        .block_o(state[r]),
        .parity_o(parity[r])
    );
  end

  for (genvar u = 0; u < (Shares == 1 ? 0 : Units); u++) begin : gen_unit
    localparam int unsigned Own = u == Units - 1 ? LastShares : Shares;
    aes_rounds #(
        .WordBytes (WordBytes),
        .Rounds    (Own),
        .FinalRound(u == Units - 1)
    ) u_rounds (
        .clk_i,
        .rst_ni,
        .clear_i    (wipe),
        .phase_i,
        .rk_i       (rk_i[u*Shares+1+:Own]),
        .rk_parity_i(rk_parity_i[u*Shares+1+:Own]),
        .valid_i    (valid[u]),
        .block_i    (state[u]),
        .parity_i   (parity[u]),
        .valid_o    (valid[u+1]),
        .block_o    (state[u+1]),
        .parity_o   (parity[u+1])
    );
  end

  if (Shares == 1) begin : gen_no_phase
    logic unused_phase;
    assign unused_phase = ^phase_i;
  end

  // The check: the columns summed, their parity, and whether that is the parity carried along.
  logic summed_valid_q, actual_valid_q, wrong_q;
  logic [31:0] summed_q;
  logic [1:0] actual_q, carried_q;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      summed_valid_q <= 1'b0;
      actual_valid_q <= 1'b0;
      wrong_q        <= 1'b0;
    end else if (wipe) begin
      summed_valid_q <= 1'b0;
      actual_valid_q <= 1'b0;
      wrong_q        <= 1'b0;
    end else begin
      summed_valid_q <= valid[Units];
      actual_valid_q <= summed_valid_q;
      wrong_q        <= actual_valid_q && actual_q != carried_q;
    end
  end

  always_ff @(posedge clk_i) begin
    if (wipe) begin
      summed_q  <= '0;
      actual_q  <= '0;
      carried_q <= '0;
    end else begin
      if (valid[Units]) begin
        summed_q <= block_o[127:96] ^ block_o[95:64] ^ block_o[63:32] ^ block_o[31:0];
      end
      actual_q  <= aes_pkg::row_parity(summed_q);
      carried_q <= parity[Units];
    end
  end

  assign valid_o = valid[Units];
  assign block_o = state[Units];
  assign wrong_o = wrong_q;

endmodule
