// The engine on a bench: clock, record port, and stalls at random on both streams.
//
// Ports
//   source_open_i, sink_open_i   how often the streams move, in 1/256 of all clocks; 256: always
//   lose_i, repeat_i   words are lost on their way to the engine; come again. taken_o counts words
//   rest as hdl/sim/record_port.sv and the engine have them

module engine_top #(
    parameter int unsigned WordBytes = 16,  // bytes a clock: 16, 8, 4 or 1
    parameter int unsigned BankBytes = 262144
) (
    output logic         clk_o,
    input  logic         rst_ni,
    input  logic [255:0] transport_key_i,
    input  logic [  8:0] source_open_i,
    input  logic [  8:0] sink_open_i,
    input  logic         lose_i,
    input  logic         repeat_i,
    output logic [ 31:0] taken_o,
    output logic         irq_o,
    input  logic         psel_i,
    input  logic         penable_i,
    input  logic         pwrite_i,
    input  logic [ 31:0] paddr_i,
    input  logic [ 31:0] pwdata_i,
    input  logic [  3:0] pstrb_i,
    output logic         pready_o,
    output logic [ 31:0] prdata_o,
    output logic         pslverr_o,
    input  logic         record_watch_i,
    output logic         record_wake_o,
    output logic [ 31:0] clocks_o
);

  timeunit 1ns; timeprecision 1ps;

  // Words of each frame out, in order.
  import "DPI-C" function void frame_ended(input int words, input int clocks);

  logic clk;

  initial begin
    clk = 1'b0;
    forever #5 clk = ~clk;
  end

  assign clk_o = clk;

  logic port_in_valid, port_in_ready, in_valid, in_ready, in_last;
  logic port_out_valid, port_out_ready, out_valid, out_ready, out_last;
  logic [127:0] in_data, out_data;

  record_port #(
      .CycleLimit(200_000)
  ) u_record_port (
      .clk_i      (clk),
      .rst_ni     (rst_ni),
      .watch_i    (record_watch_i),
      .call_i     (1'b0),
      .wake_o     (record_wake_o),
      .in_valid_o (port_in_valid),
      .in_ready_i (port_in_ready),
      .in_data_o  (in_data),
      .in_last_o  (in_last),
      .out_valid_i(port_out_valid),
      .out_ready_o(port_out_ready),
      .out_data_i (out_data),
      .out_last_i (out_last)
  );

  logic [31:0] random_q, random_d;  // xorshift32
  logic source_open_q, sink_open_q;

  always_comb begin
    random_d = random_q ^ (random_q << 13);
    random_d = random_d ^ (random_d >> 17);
    random_d = random_d ^ (random_d << 5);
  end

  always_ff @(posedge clk or negedge rst_ni) begin
    if (!rst_ni) begin
      random_q      <= 32'h1d872b41;
      source_open_q <= 1'b1;
      sink_open_q   <= 1'b1;
    end else begin
      random_q      <= random_d;
      source_open_q <= {1'b0, random_q[7:0]} < source_open_i;
      sink_open_q   <= {1'b0, random_q[23:16]} < sink_open_i;
    end
  end

  assign in_valid       = port_in_valid & source_open_q & ~lose_i;
  assign port_in_ready  = (in_ready | lose_i) & source_open_q & ~repeat_i;
  assign port_out_valid = out_valid & sink_open_q;
  assign out_ready      = port_out_ready & sink_open_q;

  drive_crypto #(
      .WordBytes(WordBytes),
      .BankBytes(BankBytes),
      .BuildHash(32'h0badcafe),
      .Simulated(1'b1)
  ) u_engine (
      .clk_i       (clk),
      .rst_ni      (rst_ni),
      .s_apb_psel  (psel_i),
      .s_apb_penable(penable_i),
      .s_apb_pwrite(pwrite_i),
      .s_apb_pprot (3'b000),
      .s_apb_paddr (paddr_i[7:0]),
      .s_apb_pwdata(pwdata_i),
      .s_apb_pstrb (pstrb_i),
      .s_apb_pready(pready_o),
      .s_apb_prdata(prdata_o),
      .s_apb_pslverr(pslverr_o),
      .transport_key_i,
      .in_valid_i  (in_valid),
      .in_ready_o  (in_ready),
      .in_data_i   (in_data),
      .in_last_i   (in_last),
      .out_valid_o (out_valid),
      .out_ready_i (out_ready),
      .out_data_o  (out_data),
      .out_last_o  (out_last),
      .irq_o       (irq_o)
  );

  // Words that the port has given away or that the engine has taken, one at least a clock.
  int taken_q;

  always_ff @(posedge clk or negedge rst_ni) begin
    if (!rst_ni) taken_q <= 0;
    else if ((port_in_valid & port_in_ready) | (in_valid & in_ready)) taken_q <= taken_q + 1;
  end

  assign taken_o = taken_q;

  int words_q, clocks_q;

  always_ff @(posedge clk or negedge rst_ni) begin
    if (!rst_ni) begin
      words_q  <= 0;
      clocks_q <= 0;
    end else begin
      clocks_q <= clocks_q + 1;
      if (port_out_valid && port_out_ready) begin
        words_q <= out_last ? 0 : words_q + 1;
        if (out_last) frame_ended(words_q + 1, clocks_q);
      end
    end
  end

  assign clocks_o = clocks_q;

endmodule
