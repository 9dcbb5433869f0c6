// Watches registers of control: a second copy of them, complemented, has to agree.
//
// Control is everything that decides what happens and is not text: states, counts, places, flags. No
// tag or parity sees it, so each such register has a twin, which takes the complement of what the
// register takes at the same edge (equal ones would be made one by synthesis). A bit that flips
// in either is reported in the clock after, for as many clocks as it stays.
//
// Ports
//   next_i    what the registers take at this edge, every clock;  held_i  what they hold
//   wrong_o   one clock ago they were not what they took
//
// Latency 1 clock. Silent at the first clock after reset, for registers that reset does not reach.

module control_twin #(
    parameter int unsigned Width = 1
) (
    input  logic             clk_i,
    input  logic             rst_ni,
    input  logic [Width-1:0] next_i,
    input  logic [Width-1:0] held_i,
    output logic             wrong_o
);

  // Never merged with what it watches, nor made from it.
  (* keep *)
  logic [Width-1:0] twin_q;
  logic armed_q, wrong_q;

  always_ff @(posedge clk_i) begin
    twin_q <= ~next_i;
  end

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      armed_q <= 1'b0;
      wrong_q <= 1'b0;
    end else begin
      armed_q <= 1'b1;
      wrong_q <= armed_q && held_i != ~twin_q;
    end
  end

  assign wrong_o = wrong_q;

endmodule
