// UARTBone bridge: commands in bytes become accesses of the board's bus.
//
//   command(1) count(1) word address(4, big endian) data(4 x count, big endian; writes only)
//
// Commands: 1 write, 2 read, each with the address incrementing; 3 write, 4 read, at one address.
// A read is answered with 4 x count bytes, big endian; a write is not answered.
//
// A command whose bytes stop coming for TimeoutClocks is dropped: that is how a host and the bridge
// get into step again. A write takes effect word by word, so what had come whole has been done.
// Bytes that begin no command are dropped one by one.
//
// CRCs (IEEE 802.3) run over all bytes since reset, so that a host knows what arrived:
//   rx_crc_o      all bytes taken, those of the command under way included
//   rx_before_o   all bytes before the command under way
//   tx_crc_o      all bytes handed to the transmitter
//
// Ports
//   rx_*, tx_*    bytes, valid/ready
//   bus_*         request held until bus_ready_i, with bus_rdata_i in that clock
//   timeout_o, bad_command_o  one clock for each command or byte dropped

module uart_bone #(
    parameter int unsigned TimeoutClocks = 16384
) (
    input  logic        clk_i,
    input  logic        rst_ni,
    input  logic        rx_valid_i,
    output logic        rx_ready_o,
    input  logic [ 7:0] rx_data_i,
    output logic        tx_valid_o,
    input  logic        tx_ready_i,
    output logic [ 7:0] tx_data_o,
    output logic        bus_valid_o,
    input  logic        bus_ready_i,
    output logic        bus_write_o,
    output logic [31:0] bus_address_o,
    output logic [31:0] bus_wdata_o,
    input  logic [31:0] bus_rdata_i,
    output logic [31:0] rx_crc_o,
    output logic [31:0] rx_before_o,
    output logic [31:0] tx_crc_o,
    output logic        timeout_o,
    output logic        bad_command_o
);

  localparam logic [7:0] WriteIncrement = 8'd1;
  localparam logic [7:0] ReadIncrement = 8'd2;
  localparam logic [7:0] WriteFixed = 8'd3;
  localparam logic [7:0] ReadFixed = 8'd4;

  localparam int unsigned TimerBits = $clog2(TimeoutClocks + 1);

  typedef enum logic [2:0] {
    Command,
    Count,
    Address,
    Data,
    Access,
    Answer
  } state_e;

  state_e state_q;
  logic write_q, fixed_q;
  logic [7:0] left_q;
  logic [1:0] byte_q;
  logic [29:0] address_q;
  logic [31:0] word_q;
  logic [TimerBits-1:0] timer_q;
  logic [31:0] rx_crc_q, rx_before_q, tx_crc_q;

  logic receiving, rx_taken, tx_taken, expired, known, last_byte;

  assign receiving = state_q == Command || state_q == Count || state_q == Address ||
                     state_q == Data;
  assign rx_ready_o = receiving;
  assign rx_taken = rx_valid_i & rx_ready_o;
  assign tx_valid_o = state_q == Answer;
  assign tx_taken = tx_valid_o & tx_ready_i;
  assign tx_data_o = word_q[31:24];
  assign last_byte = byte_q == 2'd3;
  assign expired = receiving && state_q != Command && timer_q == '0 && !rx_valid_i;
  assign known = rx_data_i == WriteIncrement || rx_data_i == ReadIncrement ||
                 rx_data_i == WriteFixed || rx_data_i == ReadFixed;

  assign bus_valid_o = state_q == Access;
  assign bus_write_o = write_q;
  assign bus_address_o = {address_q, 2'b00};
  assign bus_wdata_o = word_q;
  assign rx_crc_o = ~rx_crc_q;
  assign rx_before_o = ~rx_before_q;
  assign tx_crc_o = ~tx_crc_q;
  assign timeout_o = expired;
  assign bad_command_o = state_q == Command && rx_taken && !known;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      timer_q <= '0;
    end else if (!receiving || rx_taken) begin
      timer_q <= TimerBits'(TimeoutClocks);
    end else if (timer_q != '0) begin
      timer_q <= timer_q - 1'b1;
    end
  end

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      rx_crc_q    <= '1;
      rx_before_q <= '1;
      tx_crc_q    <= '1;
    end else begin
      if (rx_taken) rx_crc_q <= board_pkg::crc32_byte(rx_crc_q, rx_data_i);
      if (rx_taken && state_q == Command) rx_before_q <= rx_crc_q;
      if (tx_taken) tx_crc_q <= board_pkg::crc32_byte(tx_crc_q, tx_data_o);
    end
  end

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      state_q   <= Command;
      write_q   <= 1'b0;
      fixed_q   <= 1'b0;
      left_q    <= '0;
      byte_q    <= '0;
      address_q <= '0;
      word_q    <= '0;
    end else begin
      unique case (state_q)
        Command: begin
          byte_q <= '0;
          if (rx_taken && known) begin
            state_q <= Count;
            write_q <= rx_data_i == WriteIncrement || rx_data_i == WriteFixed;
            fixed_q <= rx_data_i == WriteFixed || rx_data_i == ReadFixed;
          end
        end
        Count: begin
          if (rx_taken) begin
            left_q  <= rx_data_i;
            state_q <= Address;
          end
        end
        Address: begin
          if (rx_taken) begin
            address_q <= {address_q[21:0], rx_data_i};
            byte_q    <= byte_q + 1'b1;
            if (last_byte) begin
              if (left_q == '0) state_q <= Command;
              else state_q <= write_q ? Data : Access;
            end
          end
        end
        Data: begin
          if (rx_taken) begin
            word_q <= {word_q[23:0], rx_data_i};
            byte_q <= byte_q + 1'b1;
            if (last_byte) state_q <= Access;
          end
        end
        Access: begin
          if (bus_ready_i) begin
            if (!fixed_q) address_q <= address_q + 1'b1;
            left_q <= left_q - 1'b1;
            if (!write_q) begin
              word_q  <= bus_rdata_i;
              state_q <= Answer;
            end else begin
              state_q <= left_q == 8'd1 ? Command : Data;
            end
          end
        end
        Answer: begin
          if (tx_taken) begin
            word_q <= {word_q[23:0], 8'h00};
            byte_q <= byte_q + 1'b1;
            if (last_byte) state_q <= left_q == '0 ? Command : Access;
          end
        end
        default: state_q <= Command;
      endcase
      if (expired) state_q <= Command;
    end
  end

endmodule
