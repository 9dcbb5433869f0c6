// Takes the bridge's accesses to where they belong: engine registers, board registers, windows.
//
// An address where nothing is reads as zero and is reported by error_o, as is a refused access.
//
// Ports
//   bus_*             from the bridge: request held until ready
//   psel_o            one hot: [0] engine, [1] board; the other apb signals are shared
//   in_*, out_*       the record windows
//
// The address is decoded into a register first: it comes from all over the bridge.
//
// Latency: three clocks for a write to a window, six for a read of one, four for everything else.

module board_bus (
    input  logic        clk_i,
    input  logic        rst_ni,
    input  logic        bus_valid_i,
    output logic        bus_ready_o,
    input  logic        bus_write_i,
    input  logic [31:0] bus_address_i,
    input  logic [31:0] bus_wdata_i,
    output logic [31:0] bus_rdata_o,
    output logic        error_o,
    output logic [ 1:0] psel_o,
    output logic        penable_o,
    output logic        pwrite_o,
    output logic [ 7:0] paddr_o,
    output logic [31:0] pwdata_o,
    input  logic [ 1:0] pready_i,
    input  logic [ 1:0] pslverr_i,
    input  logic [31:0] engine_rdata_i,
    input  logic [31:0] board_rdata_i,
    output logic        in_write_o,
    output logic        in_commit_o,
    output logic        out_read_o,
    output logic        out_ack_o,
    input  logic        out_ready_i,
    input  logic [31:0] out_rdata_i
);

  // Yosys reads no `import`.
  localparam logic [31:0] EngineBase = board_pkg::EngineBase;
  localparam logic [31:0] BoardBase = board_pkg::BoardBase;
  localparam logic [31:0] InWindow = board_pkg::InWindow;
  localparam logic [31:0] InCommit = board_pkg::InCommit;
  localparam logic [31:0] OutWindow = board_pkg::OutWindow;
  localparam logic [31:0] OutAck = board_pkg::OutAck;

  logic to_engine_q, to_board_q, to_in_q, to_commit_q, to_out_q, to_ack_q, to_apb, nowhere;
  logic penable_q, pready, pslverr, decoded_q, begun, ready, error, ready_q, error_q;
  logic out_ready_q;
  logic [31:0] rdata, rdata_q, out_rdata_q;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      decoded_q <= 1'b0;
      to_engine_q <= 1'b0;
      to_board_q  <= 1'b0;
      to_in_q     <= 1'b0;
      to_commit_q <= 1'b0;
      to_out_q    <= 1'b0;
      to_ack_q    <= 1'b0;
    end else begin
      decoded_q <= bus_valid_i & ~ready_q;
      to_engine_q <= bus_address_i[31:8] == EngineBase[31:8];
      to_board_q  <= bus_address_i[31:8] == BoardBase[31:8];
      to_in_q     <= bus_address_i[31:4] == InWindow[31:4] && bus_write_i;
      to_commit_q <= bus_address_i == InCommit && bus_write_i;
      to_out_q    <= bus_address_i[31:4] == OutWindow[31:4] && !bus_write_i;
      to_ack_q    <= bus_address_i == OutAck && bus_write_i;
    end
  end

  assign to_apb = to_engine_q | to_board_q;
  assign nowhere   = ~(to_apb | to_in_q | to_commit_q | to_out_q | to_ack_q);

  // The answer goes back out of registers: in its clock nothing more is asked for.
  assign begun = bus_valid_i & decoded_q & ~ready_q;

  assign psel_o    = {begun & to_board_q, begun & to_engine_q};
  assign penable_o = penable_q;
  assign pwrite_o  = bus_write_i;
  assign paddr_o   = bus_address_i[7:0];
  assign pwdata_o  = bus_wdata_i;
  assign pready    = penable_q & (to_engine_q ? pready_i[0] : pready_i[1]);
  assign pslverr   = to_engine_q ? pslverr_i[0] : pslverr_i[1];

  assign in_write_o  = begun & to_in_q;
  assign in_commit_o = begun & to_commit_q;
  assign out_read_o  = begun & to_out_q & ~out_ready_q;
  assign out_ack_o   = begun & to_ack_q;

  always_comb begin
    ready = begun;
    rdata = '0;
    error = begun & nowhere;
    if (to_apb) begin
      ready = pready;
      error = pready & pslverr;
      rdata = to_engine_q ? engine_rdata_i : board_rdata_i;
    end else if (to_out_q) begin
      ready = out_ready_q;
      rdata = out_rdata_q;
    end
  end

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      penable_q   <= 1'b0;
      ready_q     <= 1'b0;
      error_q     <= 1'b0;
      rdata_q     <= '0;
      out_ready_q <= 1'b0;
      out_rdata_q <= '0;
    end else begin
      penable_q   <= begun & to_apb & ~pready;
      ready_q     <= ready;
      error_q     <= error;
      rdata_q     <= rdata;
      out_ready_q <= out_read_o & out_ready_i;
      out_rdata_q <= out_rdata_i;
    end
  end

  assign bus_ready_o = ready_q;
  assign bus_rdata_o = rdata_q;
  assign error_o     = error_q;

endmodule
