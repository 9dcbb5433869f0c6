// One clock after clear, no register of GHASH holds anything: powers of H, lanes, products.
//
// From any state, reachable or not, with the real multiplier.

module zeroize_hash #(
    parameter int unsigned WordBytes = 16
) (
    input logic         clk_i,
    input logic         rst_ni,
    input logic         clear_i,
    input logic         h_load_i,
    input logic [127:0] h_i,
    input logic         valid_i,
    input logic [127:0] block_i,
    input logic [17:0]  count_i,
    input logic         first_i,
    input logic         last_i
);

  ghash #(
      .WordBytes(WordBytes)
  ) u_dut (
      .clk_i,
      .rst_ni,
      .clear_i,
      .h_load_i,
      .h_i,
      .valid_i,
      .block_i,
      .count_i,
      .first_i,
      .last_i
  );

  `include "zeroize_hash.svh"

  logic was_cleared_q, was_reset_q, first_clock_q;
  initial was_cleared_q = 1'b0;
  initial was_reset_q = 1'b0;
  initial first_clock_q = 1'b0;

  always_ff @(posedge clk_i) begin
    was_cleared_q <= clear_i;
    was_reset_q   <= !rst_ni;
    first_clock_q <= rst_ni && was_reset_q;
    a_clear: assert (!was_cleared_q || all_zero);
    // Reset leaves a clear to be done at the first clock.
    a_reset: assert (!first_clock_q || all_zero);
  end

endmodule
