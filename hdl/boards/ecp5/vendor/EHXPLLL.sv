// The PLL of the ECP5 as lint sees it: ports and parameters, nothing inside.
//
// Synthesis has its own, from the cell library; this file is not among a board's sources. Names
// are Lattice's (FPGA-TN-02200, sysCLOCK PLL).

// verilator lint_off UNUSEDSIGNAL
// verilator lint_off UNUSEDPARAM
// verilator lint_off UNDRIVEN
module EHXPLLL #(
    parameter string       PLLRST_ENA      = "DISABLED",
    parameter string       INTFB_WAKE      = "DISABLED",
    parameter string       STDBY_ENABLE    = "DISABLED",
    parameter string       DPHASE_SOURCE   = "DISABLED",
    parameter string       OUTDIVIDER_MUXA = "DIVA",
    parameter string       OUTDIVIDER_MUXB = "DIVB",
    parameter string       OUTDIVIDER_MUXC = "DIVC",
    parameter string       OUTDIVIDER_MUXD = "DIVD",
    parameter string       CLKOP_ENABLE    = "ENABLED",
    parameter string       FEEDBK_PATH     = "CLKOP",
    parameter int unsigned CLKI_DIV        = 1,
    parameter int unsigned CLKOP_DIV       = 8,
    parameter int unsigned CLKOP_CPHASE    = 0,
    parameter int unsigned CLKOP_FPHASE    = 0,
    parameter int unsigned CLKFB_DIV       = 1
) (
    input  logic RST,
    input  logic STDBY,
    input  logic CLKI,
    output logic CLKOP,
    input  logic CLKFB,
    output logic CLKINTFB,
    input  logic PHASESEL0,
    input  logic PHASESEL1,
    input  logic PHASEDIR,
    input  logic PHASESTEP,
    input  logic PHASELOADREG,
    input  logic PLLWAKESYNC,
    input  logic ENCLKOP,
    output logic LOCK
);
endmodule
