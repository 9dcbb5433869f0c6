// UART transmitter: 8 data bits, no parity, one stop bit.
//
// Ports
//   valid_i, ready_o, data_i  a byte is taken in a clock in which both are high
//   pin_o                     the line
//
// Throughput: ten bits a byte.

module uart_tx #(
    parameter int unsigned ClocksPerBit = 4
) (
    input  logic       clk_i,
    input  logic       rst_ni,
    input  logic       valid_i,
    output logic       ready_o,
    input  logic [7:0] data_i,
    output logic       pin_o
);

  localparam int unsigned TimerBits = $clog2(ClocksPerBit + 1);
  localparam logic [TimerBits-1:0] Bit = TimerBits'(ClocksPerBit - 1);

  logic [9:0] shift_q;  // next bit to send first; ones behind the stop bit
  logic [3:0] left_q;
  logic [TimerBits-1:0] timer_q;

  assign ready_o = left_q == '0;
  assign pin_o   = shift_q[0];

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      shift_q <= '1;
      left_q  <= '0;
      timer_q <= '0;
    end else if (ready_o) begin
      if (valid_i) begin
        shift_q <= {1'b1, data_i, 1'b0};
        left_q  <= 4'd10;
        timer_q <= Bit;
      end
    end else if (timer_q == '0) begin
      shift_q <= {1'b1, shift_q[9:1]};
      left_q  <= left_q - 1'b1;
      timer_q <= Bit;
    end else begin
      timer_q <= timer_q - 1'b1;
    end
  end

endmodule
