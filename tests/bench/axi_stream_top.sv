// The bare engine with AXI4-Stream names on its two streams, for cocotbext-axi.
//
// AXI has byte 0 of a word in its lowest bits, the engine in its highest: bytes change places.
//
// Ports: clk_i, rst_ni; APB as the engine has it; s_axis_* frames in, m_axis_* result frames out.
// Latency: none of its own.  Throughput: one word a clock each way.

module axi_stream_top (
    input  logic         clk_i,
    input  logic         rst_ni,
    input  logic         psel_i,
    input  logic         penable_i,
    input  logic         pwrite_i,
    input  logic [  7:0] paddr_i,
    input  logic [ 31:0] pwdata_i,
    output logic         pready_o,
    output logic [ 31:0] prdata_o,
    input  logic         s_axis_tvalid,
    output logic         s_axis_tready,
    input  logic [127:0] s_axis_tdata,
    input  logic         s_axis_tlast,
    output logic         m_axis_tvalid,
    input  logic         m_axis_tready,
    output logic [127:0] m_axis_tdata,
    output logic         m_axis_tlast
);

  logic [127:0] in_data, out_data;
  logic unused_slverr, unused_irq;

  for (genvar b = 0; b < 16; b++) begin : gen_byte
    assign in_data[127-8*b-:8] = s_axis_tdata[8*b+:8];
    assign m_axis_tdata[8*b+:8] = out_data[127-8*b-:8];
  end

  drive_crypto u_engine (
      .clk_i,
      .rst_ni,
      .s_apb_psel     (psel_i),
      .s_apb_penable  (penable_i),
      .s_apb_pwrite   (pwrite_i),
      .s_apb_pprot    (3'b000),
      .s_apb_paddr    (paddr_i),
      .s_apb_pwdata   (pwdata_i),
      .s_apb_pstrb    (4'b1111),
      .s_apb_pready   (pready_o),
      .s_apb_prdata   (prdata_o),
      .s_apb_pslverr  (unused_slverr),
      .transport_key_i(256'd0),
      .in_valid_i     (s_axis_tvalid),
      .in_ready_o     (s_axis_tready),
      .in_data_i      (in_data),
      .in_last_i      (s_axis_tlast),
      .out_valid_o    (m_axis_tvalid),
      .out_ready_i    (m_axis_tready),
      .out_data_o     (out_data),
      .out_last_o     (m_axis_tlast),
      .irq_o          (unused_irq)
  );

endmodule
