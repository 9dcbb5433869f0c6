// The engine as a board in simulation: register bus, record port, transport key.
//
// Clock and reset come from main.cpp. Time stands still while the host thinks: the server (serve.py)
// blocks inside the simulator until the next command comes.
//
// Plusargs: transport_key=FILE (mode 0600), parent=PID (the simulation ends with it).
// Ports: APB to the engine's registers, and behind them at 0x100 those of port_counters.sv, of which a
// write clears all; record_* as in record_port.sv.

module sim_top #(
    parameter int unsigned WordBytes  = 16,  // bytes a clock: 16, 8, 4 or 1
    parameter int unsigned BankBytes  = 262144,
    parameter int unsigned CycleLimit = 1_000_000,
    parameter logic [31:0] BuildHash  = 0
) (
    input  logic        clk_i,
    input  logic        rst_ni,
    input  logic        psel_i,
    input  logic        penable_i,
    input  logic        pwrite_i,
    input  logic [31:0] paddr_i,
    input  logic [31:0] pwdata_i,
    output logic        pready_o,
    output logic [31:0] prdata_o,
    output logic        pslverr_o,
    input  logic        record_watch_i,
    input  logic        record_call_i,
    output logic        record_wake_o
);

  timeunit 1ns; timeprecision 1ps;

  import "DPI-C" function void transport_key_read(
    input  string      path,
    output bit [255:0] key
  );
  import "DPI-C" function void parent_watch_start(input int parent);

  bit [255:0] transport_key;

  initial begin
    int parent;
    string path;
    parent = 0;
    path = "";
    void'($value$plusargs("parent=%d", parent));
    void'($value$plusargs("transport_key=%s", path));
    parent_watch_start(parent);
    transport_key_read(path, transport_key);
  end

  // An address beyond the engine's would come out as one of its own.
  localparam int unsigned AddressBits = 8;
  logic addressed, counters_addressed, pready, pslverr;
  logic [31:0] prdata, port_counter;
  assign addressed          = paddr_i[31:AddressBits] == '0;
  assign counters_addressed = paddr_i[31:AddressBits] == 1;
  assign pready_o           = pready || !addressed;
  assign pslverr_o          = addressed ? pslverr : psel_i && penable_i && !counters_addressed;
  assign prdata_o           = counters_addressed ? port_counter : prdata;

  logic in_valid;
  logic in_ready;
  logic in_last;
  logic unused_irq;
  logic [127:0] in_data;
  logic out_valid;
  logic out_ready;
  logic [127:0] out_data;
  logic out_last;

  record_port #(
      .CycleLimit(CycleLimit)
  ) u_record_port (
      .clk_i      (clk_i),
      .rst_ni     (rst_ni),
      .watch_i    (record_watch_i),
      .call_i     (record_call_i),
      .wake_o     (record_wake_o),
      .in_valid_o (in_valid),
      .in_ready_i (in_ready),
      .in_data_o  (in_data),
      .in_last_o  (in_last),
      .out_valid_i(out_valid),
      .out_ready_o(out_ready),
      .out_data_i (out_data),
      .out_last_i (out_last)
  );

  port_counters u_port_counters (
      .clk_i      (clk_i),
      .rst_ni     (rst_ni),
      .clear_i    (psel_i && penable_i && pwrite_i && counters_addressed),
      .in_valid_i (in_valid),
      .in_ready_i (in_ready),
      .in_last_i  (in_last),
      .out_valid_i(out_valid && out_ready),
      .out_last_i (out_last),
      .word_i     (paddr_i[4:2]),
      .register_o (port_counter)
  );

  drive_crypto #(
      .WordBytes(WordBytes),
      .BankBytes(BankBytes),
      .BuildHash(BuildHash),
      .Simulated(1'b1)
  ) u_drive_crypto (
      .clk_i          (clk_i),
      .rst_ni         (rst_ni),
      .s_apb_psel     (psel_i && addressed),
      .s_apb_penable  (penable_i),
      .s_apb_pwrite   (pwrite_i),
      .s_apb_pprot    (3'b000),
      .s_apb_paddr    (paddr_i[AddressBits-1:0]),
      .s_apb_pwdata   (pwdata_i),
      .s_apb_pstrb    (4'b1111),
      .s_apb_pready   (pready),
      .s_apb_prdata   (prdata),
      .s_apb_pslverr  (pslverr),
      .transport_key_i(transport_key),
      .in_valid_i     (in_valid),
      .in_ready_o     (in_ready),
      .in_data_i      (in_data),
      .in_last_i      (in_last),
      .out_valid_o    (out_valid),
      .out_ready_i    (out_ready),
      .out_data_o     (out_data),
      .out_last_o     (out_last),
      .irq_o          (unused_irq)
  );

endmodule
