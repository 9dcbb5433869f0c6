// UART receiver: 8 data bits, no parity, one stop bit.
//
// Ports
//   pin_i            the line, asynchronous
//   valid_o, data_o  one clock for each byte
//   error_o          one clock for each byte without a stop bit; it is dropped
//
// Latency: half a bit after the middle of the stop bit.  Throughput: the line's.

module uart_rx #(
    parameter int unsigned ClocksPerBit = 4  // 4 or more; 2 on a line in step with clk_i
) (
    input  logic       clk_i,
    input  logic       rst_ni,
    input  logic       pin_i,
    output logic       valid_o,
    output logic [7:0] data_o,
    output logic       error_o
);

  localparam int unsigned TimerBits = $clog2(ClocksPerBit + 1);
  localparam logic [TimerBits-1:0] Bit = TimerBits'(ClocksPerBit - 1);
  // The line is seen two clocks late; the start bit is found one clock after its edge.
  localparam logic [TimerBits-1:0] HalfBit = TimerBits'(ClocksPerBit / 2 - 1);

  typedef enum logic [1:0] {
    Idle,
    Start,
    Data,
    Stop
  } state_e;

  state_e state_q;
  logic [1:0] sync_q;
  logic pin;
  logic [TimerBits-1:0] timer_q;
  logic [2:0] index_q;
  logic [7:0] data_q;
  logic valid_q, error_q, broken_q;

  assign pin     = sync_q[1];
  assign valid_o = valid_q;
  assign error_o = error_q;
  assign data_o  = data_q;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      sync_q <= '1;
    end else begin
      sync_q <= {sync_q[0], pin_i};
    end
  end

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      state_q  <= Idle;
      timer_q  <= '0;
      index_q  <= '0;
      data_q   <= '0;
      valid_q  <= 1'b0;
      error_q  <= 1'b0;
      broken_q <= 1'b0;
    end else begin
      valid_q <= 1'b0;
      error_q <= 1'b0;
      unique case (state_q)
        Idle: begin
          // After a byte without a stop bit the line has to be high once.
          if (pin) begin
            broken_q <= 1'b0;
          end else if (!broken_q) begin
            state_q <= Start;
            timer_q <= HalfBit;
          end
        end
        Start: begin
          timer_q <= timer_q - 1'b1;
          if (timer_q == '0) begin
            timer_q <= Bit;
            index_q <= '0;
            state_q <= pin ? Idle : Data;
          end
        end
        Data: begin
          timer_q <= timer_q - 1'b1;
          if (timer_q == '0) begin
            timer_q <= Bit;
            data_q  <= {pin, data_q[7:1]};
            index_q <= index_q + 1'b1;
            if (index_q == 3'd7) state_q <= Stop;
          end
        end
        Stop: begin
          timer_q <= timer_q - 1'b1;
          if (timer_q == '0) begin
            state_q  <= Idle;
            valid_q  <= pin;
            error_q  <= ~pin;
            broken_q <= ~pin;
          end
        end
        default: state_q <= Idle;
      endcase
    end
  end

endmodule
