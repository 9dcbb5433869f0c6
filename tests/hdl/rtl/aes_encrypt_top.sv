// Bench top: key expansion into the cipher pipeline, and a loop that feeds results back, so that
// the chains of a Monte Carlo test need no Python for each block.

module aes_encrypt_top #(
    parameter int unsigned WordBytes = 16
) (
    input  logic          clk_i,
    input  logic          rst_ni,
    input  logic          clear_i,
    input  logic          start_i,
    input  logic [ 255:0] key_i,
    output logic          busy_o,
    output logic          done_o,
    output logic          open_o,      // the cipher takes a block at this edge
    input  logic          valid_i,
    input  logic [ 127:0] block_i,
    input  logic [  15:0] repeats_i,   // with valid_i: encrypt each result again so many times
    output logic          valid_o,     // not while a chain runs
    output logic [ 127:0] block_o,
    output logic [ 127:0] previous_o,  // the result before block_o
    output logic          wrong_o,
    output logic [1919:0] rk_o
);

  drive_crypto_pkg::round_keys_t rk;
  drive_crypto_pkg::key_parities_t rk_parity;
  logic valid_in, valid_out, pipe_wrong, expand_wrong, phase_wrong;
  logic [3:0] phase;
  logic [127:0] block_in;
  logic [ 15:0] repeats_left;

  aes_key_expand u_key_expand (
      .clk_i,
      .rst_ni,
      .clear_i,
      .start_i,
      .key_i,
      .busy_o,
      .done_o,
      .rk_o(rk),
      .rk_parity_o(rk_parity),
      .wrong_o(expand_wrong)
  );

  word_phase #(
      .WordBytes(WordBytes)
  ) u_word_phase (
      .clk_i,
      .rst_ni,
      .phase_o(phase),
      .wrong_o(phase_wrong)
  );

  // As behind the issue stage.
  assign open_o = phase == 4'(WordBytes != 16);

  aes_pipe #(
      .WordBytes(WordBytes)
  ) u_pipe (
      .clk_i,
      .rst_ni,
      .phase_i(phase),
      .clear_i,
      .rk_i(rk),
      .rk_parity_i(rk_parity),
      .valid_i(valid_in),
      .block_i(block_in),
      .parity_i(aes_pkg::block_parity(block_in)),
      .valid_o(valid_out),
      .block_o,
      .wrong_o(pipe_wrong)
  );

  logic chain, again;
  logic [127:0] chained;
  assign chain = valid_out && repeats_left != '0;
  assign valid_in = valid_i || (again && open_o);
  assign block_in = again ? chained : block_i;
  assign valid_o = valid_out && !chain;

  // Words in the order of the standard.
  for (genvar r = 0; r <= drive_crypto_pkg::AesRounds; r++) begin : gen_round_key
    assign rk_o[128*r+:128] = aes_pkg::from_rows(rk[r]);
  end

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      again <= 1'b0;
    end else begin
      again <= chain || (again && !open_o);
    end
  end

  always_ff @(posedge clk_i) begin
    if (valid_i) begin
      repeats_left <= repeats_i;
    end else if (chain) begin
      repeats_left <= repeats_left - 16'd1;
    end
    if (chain) begin
      chained <= block_o;
    end
    if (valid_out) begin
      previous_o <= block_o;
    end
  end

  assign wrong_o = pipe_wrong | expand_wrong | phase_wrong;

endmodule
