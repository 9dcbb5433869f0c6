// Register slice in a valid/ready stream: cuts every path between its two sides.
//
// Ports: valid/ready on both sides.
// Latency one clock, throughput one item a clock.

module stream_skid #(
    parameter int unsigned Width = 128
) (
    input  logic             clk_i,
    input  logic             rst_ni,
    input  logic             in_valid_i,
    output logic             in_ready_o,
    input  logic [Width-1:0] in_data_i,
    output logic             out_valid_o,
    input  logic             out_ready_i,
    output logic [Width-1:0] out_data_o
);

  // The spare holds what came in the clock in which the sink was found to be busy.
  logic valid_q, spare_valid_q;
  logic [Width-1:0] data_q, spare_q;

  assign in_ready_o  = ~spare_valid_q;
  assign out_valid_o = valid_q;
  assign out_data_o  = data_q;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      valid_q       <= 1'b0;
      spare_valid_q <= 1'b0;
    end else begin
      if (out_ready_i || !valid_q) begin
        valid_q       <= spare_valid_q | in_valid_i;
        spare_valid_q <= 1'b0;
      end else if (in_valid_i) begin
        spare_valid_q <= 1'b1;
      end
    end
  end

  always_ff @(posedge clk_i) begin
    if (!spare_valid_q) begin
      spare_q <= in_data_i;
    end
    if (out_ready_i || !valid_q) begin
      data_q <= spare_valid_q ? spare_q : in_data_i;
    end
  end

endmodule
