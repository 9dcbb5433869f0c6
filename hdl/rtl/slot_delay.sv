// Delay line: slots come out when the cipher has their keystream.
//
// The data lies in a small circular memory; only the kinds, which say what is valid, are a shift
// register with a reset.
//
// Ports
//   clear_i  drops all slots and wipes one place of the memory a clock: hold it Latency clocks
//   kind_i, slot_i   in;   kind_o, slot_o   the same, Latency clocks later
//
// Latency is the parameter, throughput one slot a clock.

module slot_delay #(
    parameter int unsigned Latency = 29
) (
    input  logic                   clk_i,
    input  logic                   rst_ni,
    input  logic                   clear_i,
    input  logic [2:0]             kind_i,
    input  record_pkg::slot_t      slot_i,
    output logic [2:0]             kind_o,
    output record_pkg::slot_t      slot_o
);

  // Written at one edge, read Depth edges later by the registered read port.
  localparam int unsigned Depth = Latency - 1;
  localparam int unsigned PlaceBits = $clog2(Depth);
  localparam int unsigned SlotBits = 133;
  localparam logic [2:0] None = record_pkg::SlotNone;

  logic [PlaceBits-1:0] place_q;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      place_q <= '0;
    end else if (place_q == PlaceBits'(Depth - 1)) begin
      place_q <= '0;
    end else begin
      place_q <= place_q + 1'b1;
    end
  end

  // kinds_q[0] is the youngest.
  logic [Latency-1:0][2:0] kinds_q;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      kinds_q <= '0;
    end else if (clear_i) begin
      kinds_q <= '0;
    end else begin
      kinds_q <= {kinds_q[Latency-2:0], kind_i};
    end
  end

  logic [SlotBits-1:0] memory[Depth];
  logic [SlotBits-1:0] slot_q;
  logic write, read;

  assign write = clear_i | (kind_i != None);
  assign read = clear_i | (kinds_q[Latency-2] != None);

  always_ff @(posedge clk_i) begin
    if (write) begin
      memory[place_q] <= clear_i ? '0 : slot_i;
    end
  end

  always_ff @(posedge clk_i) begin
    if (read) begin
      slot_q <= memory[place_q];
    end
  end

  assign kind_o = kinds_q[Latency-1];
  assign slot_o = slot_q;

endmodule
