// Stands for key_unwrap where what it does to a key does not matter: any outputs at any time.

module key_unwrap (
    input  logic         clk_i,
    input  logic         rst_ni,
    input  logic         clear_i,
    input  logic         start_i,
    input  logic [255:0] kek_i,
    input  logic [319:0] blob_i,
    output logic         busy_o,
    output logic         done_o,
    output logic         ok_o,
    output logic [255:0] key_o,
    output logic         wrong_o
);

  (* anyseq *) logic busy, done, ok;
  (* anyseq *) logic [255:0] key;

  assign busy_o = busy;
  assign done_o = done;
  assign ok_o   = ok;
  assign key_o  = key;
  assign wrong_o = 1'b0;

endmodule
