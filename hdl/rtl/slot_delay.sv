// Delay line: slots come out when the cipher has their keystream.
//
// The data lies in a small circular memory; only the kinds, which say what is valid, are a shift
// register with a reset.
//
// Ports
//   clear_i  drops all slots and wipes one place of the memory a clock: hold it Latency clocks
//   kind_i, slot_i   in;   kind_o, slot_o   the same, Latency clocks later
//   wrong_o  a kind or the place is not what it was set to
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
    output record_pkg::slot_t      slot_o,
    output logic                   wrong_o
);

  // Written at one edge, read Depth edges later by the registered read port.
  localparam int unsigned Depth = Latency - 1;
  localparam int unsigned PlaceBits = $clog2(Depth);
  localparam int unsigned SlotBits = $bits(slot_i);
  localparam logic [2:0] None = record_pkg::SlotNone;

  logic [PlaceBits-1:0] place_q, place_d;

  assign place_d = place_q == PlaceBits'(Depth - 1) ? '0 : place_q + 1'b1;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      place_q <= '0;
    end else begin
      place_q <= place_d;
    end
  end

  // kinds_q[0] is the youngest.
  logic [Latency-1:0][2:0] kinds_q, kinds_d;

  assign kinds_d = clear_i ? '0 : {kinds_q[Latency-2:0], kind_i};

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      kinds_q <= '0;
    end else begin
      kinds_q <= kinds_d;
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

  control_twin #(
      .Width($bits({place_q, kinds_q}))
  ) u_twin (
      .clk_i,
      .rst_ni,
      .next_i({place_d, kinds_d}),
      .held_i({place_q, kinds_q}),
      .wrong_o
  );

  assign kind_o = kinds_q[Latency-1];
  assign slot_o = slot_q;

endmodule
