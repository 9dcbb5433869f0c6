// The small queues of a board beside each other, for one bench.

module queues_top #(
    parameter int unsigned Depth = 16,
    parameter int unsigned Width = 32
) (
    input  logic             clk_i,
    input  logic             rst_ni,
    input  logic             fifo_valid_i,
    input  logic [7:0]       fifo_data_i,
    output logic             fifo_lost_o,
    output logic             fifo_valid_o,
    input  logic             fifo_ready_i,
    output logic [7:0]       fifo_data_o,
    input  logic             skid_valid_i,
    output logic             skid_ready_o,
    input  logic [Width-1:0] skid_data_i,
    output logic             skid_valid_o,
    input  logic             skid_ready_i,
    output logic [Width-1:0] skid_data_o,
    input  logic             stage_clear_i,
    input  logic             stage_valid_i,
    output logic             stage_ready_o,
    input  logic [Width-1:0] stage_data_i,
    output logic             stage_valid_o,
    input  logic             stage_ready_i,
    output logic [Width-1:0] stage_data_o,
    input  logic [3:0]       event_i,
    output logic [3:0][7:0]  count_o
);

  byte_fifo #(
      .Depth(Depth)
  ) u_fifo (
      .clk_i,
      .rst_ni,
      .valid_i(fifo_valid_i),
      .data_i (fifo_data_i),
      .lost_o (fifo_lost_o),
      .valid_o(fifo_valid_o),
      .ready_i(fifo_ready_i),
      .data_o (fifo_data_o)
  );

  stream_skid #(
      .Width(Width)
  ) u_skid (
      .clk_i,
      .rst_ni,
      .in_valid_i (skid_valid_i),
      .in_ready_o (skid_ready_o),
      .in_data_i  (skid_data_i),
      .out_valid_o(skid_valid_o),
      .out_ready_i(skid_ready_i),
      .out_data_o (skid_data_o)
  );

  stream_stage #(
      .Width(Width)
  ) u_stage (
      .clk_i,
      .rst_ni,
      .clear_i    (stage_clear_i),
      .in_valid_i (stage_valid_i),
      .in_ready_o (stage_ready_o),
      .in_data_i  (stage_data_i),
      .out_valid_o(stage_valid_o),
      .out_ready_i(stage_ready_i),
      .out_data_o (stage_data_o)
  );

  link_errors u_link_errors (
      .clk_i,
      .rst_ni,
      .event_i,
      .count_o
  );

endmodule
