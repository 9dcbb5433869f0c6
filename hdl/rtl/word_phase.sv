// Counts the clocks of a word: all parts of the engine that are narrower than a word follow it.
//
// The issue stage lets a word in at phase 0 only, so a stage of the cipher that is a given number of
// clocks behind it has a block of the same round at the same phase, and no other.
//
// Ports
//   phase_o  0 up to the clocks of a word less 1, again and again
//   wrong_o  the phase is not what it was set to

module word_phase #(
    parameter int unsigned WordBytes = 16  // bytes a clock: 16, 8, 4 or 1
) (
    input  logic       clk_i,
    input  logic       rst_ni,
    output logic [3:0] phase_o,
    output logic       wrong_o
);

  localparam int unsigned Clocks = drive_crypto_pkg::word_clocks(WordBytes);

  if (Clocks == 1) begin : gen_full
    logic unused;
    assign unused  = clk_i ^ rst_ni;
    assign phase_o = '0;
    assign wrong_o = 1'b0;
  end else begin : gen_count
    localparam int unsigned Bits = $clog2(Clocks);
    logic [Bits-1:0] phase_q, phase_d;

    assign phase_d = phase_q + 1'b1;  // a power of two

    always_ff @(posedge clk_i or negedge rst_ni) begin
      if (!rst_ni) begin
        phase_q <= '0;
      end else begin
        phase_q <= phase_d;
      end
    end

    control_twin #(
        .Width(Bits)
    ) u_twin (
        .clk_i,
        .rst_ni,
        .next_i(phase_d),
        .held_i(phase_q),
        .wrong_o
    );

    assign phase_o = 4'(phase_q);
  end

endmodule
