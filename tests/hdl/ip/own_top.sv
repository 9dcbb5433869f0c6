// A design that uses the engine, and nothing else of this project: one record through it.

module own_top;

  timeunit 1ns; timeprecision 1ps;

  logic clk = 1'b0;
  logic rst_n = 1'b0;
  logic psel = 1'b0;
  logic penable = 1'b0;
  logic [7:0] paddr = 8'h00;
  logic pready, pslverr;
  logic [31:0] prdata;
  logic in_valid = 1'b0;
  logic in_last = 1'b0;
  logic in_ready, out_valid, out_last, irq;
  logic [127:0] in_data = '0;
  logic [127:0] out_data;

  always #5 clk = ~clk;

  drive_crypto #(
      .BankBytes(256)
  ) u_engine (
      .clk_i          (clk),
      .rst_ni         (rst_n),
      .s_apb_psel     (psel),
      .s_apb_pwrite   (1'b0),
      .s_apb_penable  (penable),
      .s_apb_pprot    (3'b000),
      .s_apb_paddr    (paddr),
      .s_apb_pwdata   ('0),
      .s_apb_pstrb    ('0),
      .s_apb_pready   (pready),
      .s_apb_prdata   (prdata),
      .s_apb_pslverr  (pslverr),
      .transport_key_i('0),
      .in_valid_i     (in_valid),
      .in_ready_o     (in_ready),
      .in_data_i      (in_data),
      .in_last_i      (in_last),
      .out_valid_o    (out_valid),
      .out_ready_i    (1'b1),
      .out_data_o     (out_data),
      .out_last_o     (out_last),
      .irq_o          (irq)
  );

  logic [31:0] value;

  task automatic read_register(input logic [7:0] address);
    @(negedge clk);
    psel  = 1'b1;
    paddr = address;
    @(negedge clk);
    penable = 1'b1;
    do @(posedge clk); while (!pready);
    value = prdata;
    @(negedge clk);
    psel    = 1'b0;
    penable = 1'b0;
  endtask

  task automatic send(input logic [127:0] word, input logic last);
    in_valid = 1'b1;
    in_data  = word;
    in_last  = last;
    do @(posedge clk); while (!in_ready);
    @(negedge clk);
    in_valid = 1'b0;
  endtask

  localparam logic [127:0] Text = 128'h6f6e65207265636f7264207468726f75;
  localparam logic [31:0] Header = {4'd3, 8'd0, 1'b0, 19'd16};  // BYPASS, 16 bytes
  localparam logic [31:0] Result = {8'd0, 4'd3, 1'b0, 19'd16};

  int words = 0;

  always @(posedge clk) begin
    if (out_valid) begin
      if (out_data != (words == 0 ? {Result, 96'd0} : Text)) $fatal(1, "wrong word");
      if (out_last != (words == 1)) $fatal(1, "wrong end");
      words <= words + 1;
    end
  end

  initial begin
    repeat (3) @(negedge clk);
    rst_n = 1'b1;
    read_register(8'h00);
    if (value != 32'h54415045 || pslverr) $fatal(1, "ID");
    do read_register(8'h1c); while (!value[0] && !value[7]);
    if (value[7]) $fatal(1, "self test");
    send({Header, 96'd0}, 1'b0);
    send(Text, 1'b1);
    repeat (200) @(negedge clk);
    if (words != 2 || irq) $fatal(1, "no result");
    $display("one record is through");
    $finish;
  end

endmodule
