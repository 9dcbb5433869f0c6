// Stands for aes_pipe where what it enciphers does not matter: any outputs at any time.

module aes_pipe #(
    parameter int unsigned WordBytes = 16
) (
    input  logic                                        clk_i,
    input  logic                                        rst_ni,
    input  logic                                        clear_i,
    input  logic [                          3:0]        phase_i,
    input  logic [drive_crypto_pkg::AesRounds:0][127:0] rk_i,
    input  logic [drive_crypto_pkg::AesRounds:0][  1:0] rk_parity_i,
    input  logic                                        valid_i,
    input  logic [                        127:0]        block_i,
    input  logic [                          1:0]        parity_i,
    output logic                                        valid_o,
    output logic [                        127:0]        block_o,
    output logic                                        wrong_o
);

  // Keeps the key schedule in a netlist where nothing else reads it.
  (* keep *) logic [drive_crypto_pkg::AesRounds:0][127:0] round_keys;
  (* keep *) logic [drive_crypto_pkg::AesRounds:0][1:0] key_parities;
  assign round_keys   = rk_i;
  assign key_parities = rk_parity_i;

  (* anyseq *) logic valid, wrong;
  (* anyseq *) logic [127:0] block;

  assign valid_o = valid;
  assign block_o = block;
  assign wrong_o = wrong;

endmodule
