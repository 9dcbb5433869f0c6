// Stands for self_test where the order of its steps does not matter: any outputs at any time.

module self_test (
    input  logic         clk_i,
    input  logic         rst_ni,
    output logic         active_o,
    output logic         done_o,
    output logic         ok_o,
    output logic         broken_o,
    output logic [  2:0] step_o,
    input  logic         zeroizing_i,
    input  logic         key_valid_i,
    input  logic         unwrap_failed_i,
    output logic         load_o,
    output logic         zeroize_o,
    output logic [319:0] sealed_key_o,
    output logic [255:0] transport_key_o,
    output logic         in_valid_o,
    input  logic         in_ready_i,
    output logic [127:0] in_data_o,
    output logic         in_last_o,
    input  logic         out_valid_i,
    output logic         out_ready_o,
    input  logic [127:0] out_data_i,
    input  logic         out_last_i,
    output logic         wrong_o
);

  (* anyseq *) logic active, done, ok, broken, load, zeroize, in_valid, in_last, out_ready;
  (* anyseq *) logic [319:0] sealed_key;
  (* anyseq *) logic [255:0] transport_key;
  (* anyseq *) logic [127:0] in_data;

  assign active_o        = active;
  assign done_o          = done;
  assign ok_o            = ok;
  assign broken_o        = broken;
  assign step_o          = '0;
  assign load_o          = load;
  assign zeroize_o       = zeroize;
  assign sealed_key_o    = sealed_key;
  assign transport_key_o = transport_key;
  assign in_valid_o      = in_valid;
  assign in_data_o       = in_data;
  assign in_last_o       = in_last;
  assign wrong_o         = 1'b0;
  assign out_ready_o     = out_ready;

endmodule
