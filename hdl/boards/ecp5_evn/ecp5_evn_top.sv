// The gates on Lattice's ECP5 evaluation board: board_top with PLL, reset, transport key and pins.
//
// Ports: see ecp5_evn.lpf. LEDs are low when they shine: led_no[0] when the gates are out of reset,
// led_no[1] while the serial line is low, led_no[7] blinks with the gates' clock.
//
// Serial line: 1,000,000 baud, 8N1.

module ecp5_evn_top #(
    parameter int unsigned ClockMhz = 80,      // a multiple of 4
    parameter int unsigned WordBytes = 16,  // bytes a clock: 16, 8, 4 or 1
    parameter int unsigned BankBytes = 16384,
    parameter logic [31:0] BuildHash = 0
) (
    input  logic       clk_12mhz_i,
    input  logic       reset_ni,
    input  logic       uart_rx_i,
    output logic       uart_tx_o,
    output logic [7:0] led_no
);

  logic clk, rst_n, key_ready;
  logic [255:0] transport_key;

  ecp5_clock #(
      .OscillatorMhz(12),
      .InputDivider (3),
      .ClockMhz     (ClockMhz)
  ) u_clock (
      .oscillator_i(clk_12mhz_i),
      .reset_ni,
      .clk_o       (clk),
      .rst_no      (rst_n)
  );

  transport_key_rom u_transport_key_rom (
      .clk_i  (clk),
      .rst_ni (rst_n),
      .ready_o(key_ready),
      .key_o  (transport_key)
  );

  // A USB serial adapter may leave gaps of milliseconds within a command.
  board_top #(
      .WordBytes    (WordBytes),
      .BankBytes    (BankBytes),
      .BuildHash    (BuildHash),
      .ClocksPerBit (ClockMhz),
      .TimeoutClocks(ClockMhz * 50_000)
  ) u_board (
      .clk_i          (clk),
      .rst_ni         (key_ready),
      .transport_key_i(transport_key),
      .uart_rx_i,
      .uart_tx_o
  );

  logic [25:0] blink_q;

  always_ff @(posedge clk or negedge rst_n) begin
    if (!rst_n) begin
      blink_q <= '0;
    end else begin
      blink_q <= blink_q + 1'b1;
    end
  end

  assign led_no = ~{blink_q[25], 5'b00000, ~uart_rx_i, key_ready};

endmodule
