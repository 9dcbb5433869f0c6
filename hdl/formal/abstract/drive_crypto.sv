// Stands for drive_crypto where its record path does not matter: the real register block, and any
// stream signals at any time.

module drive_crypto #(
    parameter int unsigned WordBytes = 16,
    parameter int unsigned BankBytes = 262144,
    parameter logic [31:0] BuildHash = 0,
    parameter bit Simulated = 1'b0
) (
    input  logic         clk_i,
    input  logic         rst_ni,
    input  logic         s_apb_psel,
    input  logic         s_apb_penable,
    input  logic         s_apb_pwrite,
    input  logic [2:0]   s_apb_pprot,
    input  logic [7:0]   s_apb_paddr,
    input  logic [31:0]  s_apb_pwdata,
    input  logic [3:0]   s_apb_pstrb,
    output logic         s_apb_pready,
    output logic [31:0]  s_apb_prdata,
    output logic         s_apb_pslverr,
    input  logic [255:0] transport_key_i,
    input  logic         in_valid_i,
    output logic         in_ready_o,
    input  logic [127:0] in_data_i,
    input  logic         in_last_i,
    output logic         out_valid_o,
    input  logic         out_ready_i,
    output logic [127:0] out_data_o,
    output logic         out_last_o,
    output logic         irq_o
);

  (* anyseq *) logic in_ready, out_valid, out_last, irq;
  (* anyseq *) logic [127:0] out_data;

  assign in_ready_o  = in_ready;
  assign out_valid_o = out_valid;
  assign out_last_o  = out_last;
  assign irq_o       = irq;
  assign out_data_o  = out_data;

  drive_crypto_regs u_regs (
      .clk   (clk_i),
      .arst_n(rst_ni),
      .s_apb_psel,
      .s_apb_pwrite,
      .s_apb_penable,
      .s_apb_pprot,
      .s_apb_paddr,
      .s_apb_pwdata,
      .s_apb_pstrb,
      .s_apb_pready,
      .s_apb_prdata,
      .s_apb_pslverr
  );

endmodule
