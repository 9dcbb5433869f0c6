// Bench top: the inverse cipher, and a loop that feeds results back, so that the chains of a
// Monte Carlo test need no Python for each block.

module aes_decrypt_top (
    input  logic         clk_i,
    input  logic         rst_ni,
    input  logic         clear_i,
    input  logic         key_start_i,
    input  logic [255:0] key_i,
    output logic         key_done_o,
    input  logic         start_i,
    input  logic [127:0] block_i,
    input  logic [ 15:0] repeats_i,    // with start_i: decrypt each result again so many times
    output logic         done_o,       // not while a chain runs
    output logic [127:0] block_o,
    output logic [127:0] previous_o,   // the result before block_o
    output logic         wrong_o
);

  logic done, chain;
  logic [15:0] repeats_left;

  aes_inv_cipher u_inv_cipher (
      .clk_i,
      .rst_ni,
      .clear_i,
      .key_start_i,
      .key_i,
      .key_done_o,
      .start_i(start_i || chain),
      .block_i(chain ? block_o : block_i),
      .done_o (done),
      .block_o,
      .wrong_o
  );

  assign chain  = done && repeats_left != '0;
  assign done_o = done && !chain;

  always_ff @(posedge clk_i) begin
    if (start_i) begin
      repeats_left <= repeats_i;
    end else if (chain) begin
      repeats_left <= repeats_left - 16'd1;
    end
    if (done) begin
      previous_o <= block_o;
    end
  end

endmodule
