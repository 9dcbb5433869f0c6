// A round unit of the AES cipher that a block passes several times: up to one round a clock of a word.
//
// A round takes three clocks: choice between a new block and the one that comes round again, then the
// two stages of aes_round. Three is odd and the clocks of a word are a power of two, so blocks that
// enter once a word, always at the same phase, never meet: at each phase the first stage has a block
// of one certain round. So the phase says which round key is due, when a block leaves, and which round
// is the last of the cipher; no count travels with a block.
//
// Ports
//   clear_i    drops what is in flight and zeroes all data registers, at one edge
//   phase_i    of word_phase, three clocks after the issue stage took the word of the block that enters
//   rk_i       round keys of its rounds, [0] first, as aes_round has them, and rk_parity_i
//   valid_i, block_i, parity_i    a block enters, parity a clock later
//   valid_o, block_o, parity_o    it leaves, parity a clock later; block_o means nothing else
//
// Latency 3 clocks a round, throughput one block a word.

module aes_rounds #(
    parameter int unsigned WordBytes = 8,  // bytes a clock: 8, 4 or 1
    parameter int unsigned Rounds = 2,     // no more than a word has clocks
    parameter bit FinalRound = 1'b0        // the last of them is the cipher's last
) (
    input  logic                     clk_i,
    input  logic                     rst_ni,
    input  logic                     clear_i,
    input  logic [       3:0]        phase_i,
    input  logic [Rounds-1:0][127:0] rk_i,
    input  logic [Rounds-1:0][  1:0] rk_parity_i,
    input  logic                     valid_i,
    input  logic [     127:0]        block_i,
    input  logic [       1:0]        parity_i,
    output logic                     valid_o,
    output logic [     127:0]        block_o,
    output logic [       1:0]        parity_o
);

  localparam int unsigned Clocks = drive_crypto_pkg::word_clocks(WordBytes);

  // Block of round r (from 0): in the first stage at phase 3 (r + 1), two clocks on at its end.
  localparam logic [3:0] LastSubbed = 4'((3 * Rounds + 1) % Clocks);
  localparam logic [3:0] LastMixed = 4'((3 * Rounds + 2) % Clocks);

  logic last_subbed, last_mixed;
  assign last_subbed = phase_i == LastSubbed;
  assign last_mixed  = phase_i == LastMixed;

  // Stage 1: a new block, or one that comes round.
  logic round_valid, comes_round, valid_q, entered_q;
  logic [127:0] round_block, block_q;
  logic [1:0] round_parity, parity_q;

  assign comes_round = round_valid & ~last_mixed;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      valid_q <= 1'b0;
    end else begin
      valid_q <= (valid_i | comes_round) & ~clear_i;
    end
  end

  always_ff @(posedge clk_i) begin
    if (clear_i) begin
      block_q   <= '0;
      entered_q <= 1'b0;
      parity_q  <= '0;
    end else begin
      if (valid_i || comes_round) begin
        block_q <= valid_i ? block_i : round_block;
      end
      entered_q <= valid_i;
      parity_q  <= entered_q ? parity_i : round_parity;
    end
  end

  // The round key, one clock after stage 1, and its parity, two clocks after it.
  logic [Clocks-1:0][127:0] key_at;  // by the phase at which the block is in stage 1
  logic [Clocks-1:0][1:0] key_parity_at;  // a clock later

  for (genvar p = 0; p < Clocks; p++) begin : gen_key
    // 3 * 11 is 1, modulo 16 and so modulo 2 and 4.
    localparam int unsigned Round = (11 * p + Clocks - 1) % Clocks;
    localparam int unsigned RoundBefore = (11 * (p + Clocks - 1) + Clocks - 1) % Clocks;
    assign key_at[p] = Round < Rounds ? rk_i[Round%Rounds] : '0;
    assign key_parity_at[p] = RoundBefore < Rounds ? rk_parity_i[RoundBefore%Rounds] : '0;
  end

  localparam int unsigned PhaseBits = $clog2(Clocks);
  logic [PhaseBits-1:0] phase;
  logic [127:0] key_q;
  logic [1:0] key_parity_q;

  assign phase = phase_i[PhaseBits-1:0];

  always_ff @(posedge clk_i) begin
    if (clear_i) begin
      key_q        <= '0;
      key_parity_q <= '0;
    end else begin
      if (valid_q) begin
        key_q <= key_at[phase];
      end
      key_parity_q <= key_parity_at[phase];
    end
  end

  aes_round #(
      .FinalRound(FinalRound),
      .Shared    (1'b1)
  ) u_round (
      .clk_i,
      .rst_ni,
      .clear_i,
      .final_i    (last_subbed),
      .final_parity_i(last_mixed),
      .rk_i       (key_q),
      .rk_parity_i(key_parity_q),
      .valid_i    (valid_q),
      .block_i    (block_q),
      .parity_i   (parity_q),
      .valid_o    (round_valid),
      .block_o    (round_block),
      .parity_o   (round_parity)
  );

  assign valid_o  = round_valid & last_mixed;
  assign block_o  = round_block;
  assign parity_o = round_parity;

  // ---- Assertions, in the builds of the benches --------------------------------------------------

`ifdef RTL_ASSERTIONS
  a_one_block :
  assert property (@(posedge clk_i) disable iff (!rst_ni) !(valid_i && comes_round));
`endif

endmodule
