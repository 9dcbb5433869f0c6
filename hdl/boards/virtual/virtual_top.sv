// A board that is not there: board_top with clock, reset, and its serial line moved by the host.
//
// At every clock both pins go through serial_line.cpp, which sends and samples bits as a terminal
// at the other end of the cable does. When nothing moves for a while, it blocks, and time stands
// still.
//
// Plusargs: transport_key=FILE (mode 0600), parent=PID (the simulation ends with it),
// serial_socket=FD and serial_pty=FD (a listening socket and a terminal's other end).

module virtual_top #(
    parameter int unsigned WordBytes = 16,  // bytes a clock: 16, 8, 4 or 1
    parameter int unsigned BankBytes = 65536,
    parameter logic [31:0] BuildHash = 0,
    parameter int unsigned ClocksPerBit = 2,  // no more clocks than it takes
    parameter int unsigned TimeoutClocks = 16384
) (
    output logic clk_o
);

  timeunit 1ns; timeprecision 1ps;

  localparam time ClockPeriod = 16ns;  // 62.5 MHz
  localparam int unsigned ResetClocks = 4;

  import "DPI-C" function void transport_key_read(
    input  string      path,
    output bit [255:0] key
  );
  import "DPI-C" function void parent_watch_start(input int parent);
  import "DPI-C" function void serial_line_open(
    input int listener,
    input int terminal,
    input int clocks_per_bit,
    input int linger_clocks
  );
  // One clock: takes the board's output pin, returns its input pin.
  import "DPI-C" function bit serial_line_step(input bit pin);

  logic clk;
  logic rst_n;
  logic to_board_q, from_board;
  bit [255:0] transport_key;

  initial begin
    int parent, listener, terminal;
    string path;
    parent = 0;
    listener = -1;
    terminal = -1;
    path = "";
    void'($value$plusargs("parent=%d", parent));
    void'($value$plusargs("serial_socket=%d", listener));
    void'($value$plusargs("serial_pty=%d", terminal));
    void'($value$plusargs("transport_key=%s", path));
    parent_watch_start(parent);
    transport_key_read(path, transport_key);
    // Half a command must be dropped before time stands still.
    serial_line_open(listener, terminal, ClocksPerBit, 2 * TimeoutClocks);
  end

  initial begin
    clk = 1'b0;
    forever #(ClockPeriod / 2) clk = ~clk;
  end

  initial begin
    rst_n = 1'b0;
    repeat (ResetClocks) @(negedge clk);
    rst_n = 1'b1;
  end

  always_ff @(posedge clk or negedge rst_n) begin
    if (!rst_n) to_board_q <= 1'b1;
    else to_board_q <= serial_line_step(from_board);
  end

  board_top #(
      .WordBytes    (WordBytes),
      .BankBytes    (BankBytes),
      .BuildHash    (BuildHash),
      .Simulated    (1'b1),
      .ClocksPerBit (ClocksPerBit),
      .TimeoutClocks(TimeoutClocks)
  ) u_board (
      .clk_i          (clk),
      .rst_ni         (rst_n),
      .transport_key_i(transport_key),
      .uart_rx_i      (to_board_q),
      .uart_tx_o      (from_board)
  );

  assign clk_o = clk;

endmodule
