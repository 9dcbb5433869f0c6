// Stands for aes_sbox_rom where its table does not matter: a read gives anything, a clear zero.

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

  (* anyseq *) logic [17:0] any_a, any_b;
  logic [17:0] data_a_q, data_b_q;

  always_ff @(posedge clk_i) begin
    if (clear_i) begin
      data_a_q <= '0;
      data_b_q <= '0;
    end else if (en_i) begin
      data_a_q <= any_a;
      data_b_q <= any_b;
    end
  end

  assign data_a_o   = data_a_q[15:0];
  assign data_b_o   = data_b_q[15:0];
  assign parity_a_o = data_a_q[17:16];
  assign parity_b_o = data_b_q[17:16];

endmodule
