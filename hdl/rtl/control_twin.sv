// Watches registers of control: a second copy of them, complemented, has to agree.
//
// Control is everything that decides what happens and is not text: states, counts, places, flags. No
// tag or parity sees it, so each such register has a twin, which takes the complement of what the
// register takes at the same edge (equal ones would be made one by synthesis). A bit that flips
// in either is reported two clocks after, for as many clocks as it stays.
//
// Ports
//   next_i    what the registers take at this edge, every clock;  held_i  what they hold
//   wrong_o   two clocks ago they were not what they took
//
// Latency 2 clocks: the registers lie far from each other. Silent at the first clock after reset, for
// registers that reset does not reach.

module control_twin #(
    parameter int unsigned Width = 1
) (
    input  logic             clk_i,
    input  logic             rst_ni,
    input  logic [Width-1:0] next_i,
    input  logic [Width-1:0] held_i,
    output logic             wrong_o
);

  // The complement keeps it apart: Yosys makes one register of equal ones, whatever attribute the
  // second has. The attribute is for other tools.
  (* keep *)
  logic [Width-1:0] twin_q;
  logic [Width-1:0] differs_q;
  logic armed_q, wrong_q;

  always_ff @(posedge clk_i) begin
    twin_q <= ~next_i;
  end

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      armed_q   <= 1'b0;
      differs_q <= '0;
      wrong_q   <= 1'b0;
    end else begin
      armed_q   <= 1'b1;
      differs_q <= armed_q ? held_i ^ ~twin_q : '0;
      wrong_q   <= differs_q != '0;
    end
  end

  assign wrong_o = wrong_q;

endmodule
