// Stands for aes_pipe where what it enciphers does not matter: any outputs at any time.

module aes_pipe (
    input  logic                                        clk_i,
    input  logic                                        rst_ni,
    input  logic                                        clear_i,
    input  logic [drive_crypto_pkg::AesRounds:0][127:0] rk_i,
    input  logic                                        valid_i,
    input  logic [                        127:0]        block_i,
    output logic                                        valid_o,
    output logic [                        127:0]        block_o
);

  // Keeps the key schedule in a netlist where nothing else reads it.
  (* keep *) logic [drive_crypto_pkg::AesRounds:0][127:0] round_keys;
  assign round_keys = rk_i;

  (* anyseq *) logic valid;
  (* anyseq *) logic [127:0] block;

  assign valid_o = valid;
  assign block_o = block;

endmodule
