// Two reads a clock of the AES S-box, as a block RAM makes them: registered output.
//
// SubBytes of FIPS 197 section 5.1.1. A read gives s = Sbox[addr] in bits [7:0] and {02} * s in
// bits [15:8], so that MixColumns needs nothing but sums; and beside them what a parity that follows
// the data needs, in the two bits that a block RAM has to spare.
//
// Ports
//   clear_i      output registers to zero, before any read
//   en_i         read at this edge; else the outputs stay
//   addr_*_i     bytes to look up
//   data_*_o     {xtime(s), s}
//   parity_*_o   [0] parity of addr and s together, [1] parity of xtime(s)
//
// Latency 1 clock, throughput 2 bytes a clock.

module aes_sbox_rom (
    input  logic        clk_i,
    input  logic        clear_i,
    input  logic        en_i,
    input  logic [ 7:0] addr_a_i,
    input  logic [ 7:0] addr_b_i,
    output logic [15:0] data_a_o,
    output logic [15:0] data_b_o,
    output logic [ 1:0] parity_a_o,
    output logic [ 1:0] parity_b_o
);

  (* rom_style = "block" *)
  logic [17:0] rom[256];
  logic [17:0] data_a_q, data_b_q;

  initial begin
    for (int i = 0; i < 256; i++) begin
      rom[i] = aes_pkg::sbox_entry(i[7:0]);
    end
  end

  always_ff @(posedge clk_i) begin
    if (clear_i) begin
      data_a_q <= '0;
      data_b_q <= '0;
    end else if (en_i) begin
      data_a_q <= rom[addr_a_i];
      data_b_q <= rom[addr_b_i];
    end
  end

  assign data_a_o   = data_a_q[15:0];
  assign data_b_o   = data_b_q[15:0];
  assign parity_a_o = data_a_q[17:16];
  assign parity_b_o = data_b_q[17:16];

endmodule
