// Stands for key_loader where the traffic generator loads no key: the host alone has the engine's bus.

module key_loader (
    input  logic         clk_i,
    input  logic         rst_ni,
    input  logic         start_i,
    output logic         busy_o,
    input  logic [319:0] sealed_key_i,
    input  logic         host_psel_i,
    input  logic         host_penable_i,
    input  logic         host_pwrite_i,
    input  logic [  7:0] host_paddr_i,
    input  logic [ 31:0] host_pwdata_i,
    output logic         host_pready_o,
    output logic         apb_psel_o,
    output logic         apb_penable_o,
    output logic         apb_pwrite_o,
    output logic [  7:0] apb_paddr_o,
    output logic [ 31:0] apb_pwdata_o,
    input  logic         apb_pready_i
);

  (* anyseq *) logic busy;

  assign busy_o        = busy;
  assign host_pready_o = apb_pready_i;
  assign apb_psel_o    = host_psel_i;
  assign apb_penable_o = host_penable_i;
  assign apb_pwrite_o  = host_pwrite_i;
  assign apb_paddr_o   = host_paddr_i;
  assign apb_pwdata_o  = host_pwdata_i;

endmodule
