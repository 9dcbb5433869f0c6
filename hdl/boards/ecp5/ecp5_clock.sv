// Clock and reset of an ECP5 board: the PLL makes the gates' clock from the oscillator's.
//
// The feedback divider multiplies, so ClockMhz must be a whole multiple of OscillatorMhz divided by
// InputDivider. The PLL's own oscillator runs between 400 and 800 MHz, which OutputDivider sees to
// for any ClockMhz from 40 to 200.
//
// Ports
//   oscillator_i   from the pin
//   reset_ni       button, asynchronous; low resets
//   clk_o          ClockMhz
//   rst_no         reset of everything on clk_o: asserted at once, released in step with clk_o,
//                  and not before the PLL has locked

module ecp5_clock #(
    parameter int unsigned OscillatorMhz = 25,
    parameter int unsigned InputDivider = 5,
    parameter int unsigned ClockMhz = 80
) (
    input  logic oscillator_i,
    input  logic reset_ni,
    output logic clk_o,
    output logic rst_no
);

  localparam int unsigned FeedbackDivider = ClockMhz * InputDivider / OscillatorMhz;
  localparam int unsigned OutputDivider = 600 / ClockMhz;
  localparam int unsigned Depth = 4;

  logic locked, unused_feedback;

  (* ICP_CURRENT = "12" *) (* LPF_RESISTOR = "8" *) (* MFG_ENABLE_FILTEROPAMP = "1" *)
      (* MFG_GMCREF_SEL = "2" *)
  EHXPLLL #(
      .PLLRST_ENA      ("DISABLED"),
      .INTFB_WAKE      ("DISABLED"),
      .STDBY_ENABLE    ("DISABLED"),
      .DPHASE_SOURCE   ("DISABLED"),
      .OUTDIVIDER_MUXA ("DIVA"),
      .OUTDIVIDER_MUXB ("DIVB"),
      .OUTDIVIDER_MUXC ("DIVC"),
      .OUTDIVIDER_MUXD ("DIVD"),
      .CLKI_DIV        (InputDivider),
      .CLKOP_ENABLE    ("ENABLED"),
      .CLKOP_DIV       (OutputDivider),
      .CLKOP_CPHASE    (OutputDivider / 2),
      .CLKOP_FPHASE    (0),
      .FEEDBK_PATH     ("CLKOP"),
      .CLKFB_DIV       (FeedbackDivider)
  ) u_pll (
      .RST         (1'b0),
      .STDBY       (1'b0),
      .CLKI        (oscillator_i),
      .CLKOP       (clk_o),
      .CLKFB       (clk_o),
      .CLKINTFB    (unused_feedback),
      .PHASESEL0   (1'b0),
      .PHASESEL1   (1'b0),
      .PHASEDIR    (1'b1),
      .PHASESTEP   (1'b1),
      .PHASELOADREG(1'b1),
      .PLLWAKESYNC (1'b0),
      .ENCLKOP     (1'b0),
      .LOCK        (locked)
  );

  logic [Depth-1:0] release_q;
  logic reset_n, rst_nq;

  assign reset_n = reset_ni & locked;

  always_ff @(posedge clk_o or negedge reset_n) begin
    if (!reset_n) begin
      release_q <= '0;
      rst_nq    <= 1'b0;
    end else begin
      release_q <= {release_q[Depth-2:0], 1'b1};
      rst_nq    <= release_q[Depth-1];
    end
  end

  assign rst_no = rst_nq;

endmodule
