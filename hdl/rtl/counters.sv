// The engine's 64-bit counters and the snapshot through which they are read.
//
// Ports
//   clear_i, snapshot_i  one clock each: all counters and the snapshot to zero; copy all at once
//   busy_i, stall_source_i, stall_sink_i  counted in clocks, one clock later: so are all
//   record_i, bytes_i    a record ended well, with so many data bytes
//   tag_failed_i         a tag did not match
//   *_o                  the snapshot

module counters (
    input  logic        clk_i,
    input  logic        rst_ni,
    input  logic        clear_i,
    input  logic        snapshot_i,
    input  logic        busy_i,
    input  logic        stall_source_i,
    input  logic        stall_sink_i,
    input  logic        record_i,
    input  logic [18:0] bytes_i,
    input  logic        tag_failed_i,
    output logic [63:0] cycles_busy_o,
    output logic [63:0] cycles_stall_source_o,
    output logic [63:0] cycles_stall_sink_o,
    output logic [63:0] records_o,
    output logic [63:0] bytes_o,
    output logic [63:0] tag_failures_o
);

  localparam int unsigned Count = 6;

  logic [Count-1:0] event_q;
  logic [18:0] bytes_q;
  logic [Count-1:0][63:0] value;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      event_q <= '0;
      bytes_q <= '0;
    end else begin
      event_q <= {tag_failed_i, record_i, record_i, stall_sink_i, stall_source_i, busy_i};
      bytes_q <= bytes_i;
    end
  end

  for (genvar c = 0; c < Count; c++) begin : gen_counter
    logic [63:0] live_q, snapshot_q, step;

    assign step = c == 4 ? 64'(bytes_q) : 64'd1;

    always_ff @(posedge clk_i or negedge rst_ni) begin
      if (!rst_ni) begin
        live_q <= '0;
      end else if (clear_i) begin
        live_q <= '0;
      end else if (event_q[c]) begin
        live_q <= live_q + step;
      end
    end

    always_ff @(posedge clk_i or negedge rst_ni) begin
      if (!rst_ni) begin
        snapshot_q <= '0;
      end else if (clear_i) begin
        snapshot_q <= '0;
      end else if (snapshot_i) begin
        snapshot_q <= live_q;
      end
    end

    assign value[c] = snapshot_q;
  end

  assign cycles_busy_o         = value[0];
  assign cycles_stall_source_o = value[1];
  assign cycles_stall_sink_o   = value[2];
  assign records_o             = value[3];
  assign bytes_o               = value[4];
  assign tag_failures_o        = value[5];

endmodule
