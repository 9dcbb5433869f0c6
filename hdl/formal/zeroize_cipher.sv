// One clock after clear, no register of the cipher holds anything.
//
// From any state, reachable or not. The S-boxes' tables do not matter and are replaced by anything.

module zeroize_cipher #(
    parameter int unsigned WordBytes = 16
) (
    input logic          clk_i,
    input logic          rst_ni,
    input logic          clear_i,
    input logic [3:0]    phase_i,
    input logic [1919:0] rk_i,
    input logic          valid_i,
    input logic [127:0]  block_i
);

  aes_pipe #(
      .WordBytes(WordBytes)
  ) u_dut (
      .clk_i,
      .rst_ni,
      .clear_i,
      .phase_i,
      .rk_i,
      .valid_i,
      .block_i
  );

  `include "zeroize_cipher.svh"

  logic was_cleared_q, was_reset_q, first_clock_q;
  initial was_cleared_q = 1'b0;
  initial was_reset_q = 1'b0;
  initial first_clock_q = 1'b0;

  always_ff @(posedge clk_i) begin
    was_cleared_q <= clear_i;
    was_reset_q   <= !rst_ni;
    first_clock_q <= rst_ni && was_reset_q;
    a_clear: assert (!was_cleared_q || all_zero);
    // Reset cannot reach the data registers: it leaves a clear to be done at the first clock.
    a_reset: assert (!first_clock_q || all_zero);
  end

endmodule
