// The bridge always returns to idle: when the line has been quiet for long enough, whatever came
// before, the receiver waits for a start bit, no byte waits, the bridge waits for a command and the
// transmitter has sent everything.
//
// The whole board but for the engine, of which the register block is real and the rest is free. No
// byte waits but for an answer, and each that is taken is one less on a quiet line. Whatever else
// may go on, ends: a counter of its clocks and what is still to come never exceed its bound. So
// the longest way to idle is that of three answers, since 17 bytes hold no more reads, and one
// timeout.

module bridge_idle (
    input logic         clk_i,
    input logic         rst_ni,
    input logic [255:0] transport_key_i,
    input logic         uart_rx_i
);

  localparam int unsigned ClocksPerBit = 4;
  localparam int unsigned TimeoutClocks = 16384;
  localparam int unsigned FifoBytes = 16;

  board_top #(
      .ClocksPerBit (ClocksPerBit),
      .TimeoutClocks(TimeoutClocks)
  ) u_dut (
      .clk_i,
      .rst_ni,
      .transport_key_i,
      .uart_rx_i
  );

  // ---- What the design holds inside, by name -----------------------------------------------------

  (* hierconn *) wire [1:0] \u_dut.u_uart_rx.state_q ;
  (* hierconn *) wire [1:0] \u_dut.u_uart_rx.sync_q ;
  (* hierconn *) wire [2:0] \u_dut.u_uart_rx.timer_q ;
  (* hierconn *) wire [2:0] \u_dut.u_uart_rx.index_q ;
  (* hierconn *) wire \u_dut.u_uart_rx.valid_q ;
  (* hierconn *) wire \u_dut.u_uart_rx.broken_q ;
  (* hierconn *) wire [4:0] \u_dut.u_byte_fifo.head_q ;
  (* hierconn *) wire [4:0] \u_dut.u_byte_fifo.tail_q ;
  (* hierconn *) wire [2:0] \u_dut.u_uart_bone.state_q ;
  (* hierconn *) wire \u_dut.u_uart_bone.rx_taken ;
  (* hierconn *) wire \u_dut.u_uart_bone.write_q ;
  (* hierconn *) wire [7:0] \u_dut.u_uart_bone.left_q ;
  (* hierconn *) wire [1:0] \u_dut.u_uart_bone.byte_q ;
  (* hierconn *) wire [14:0] \u_dut.u_uart_bone.timer_q ;
  (* hierconn *) wire [3:0] \u_dut.u_uart_tx.left_q ;
  (* hierconn *) wire [2:0] \u_dut.u_uart_tx.timer_q ;
  (* hierconn *) wire [9:0] \u_dut.u_uart_tx.shift_q ;
  (* hierconn *) wire \u_dut.u_board_bus.penable_q ;
  (* hierconn *) wire \u_dut.u_board_bus.ready_q ;
  (* hierconn *) wire \u_dut.u_board_bus.out_ready_q ;
  (* hierconn *) wire \u_dut.u_board_bus.decoded_q ;
  (* hierconn *) wire \u_dut.u_board_bus.to_engine_q ;
  (* hierconn *) wire \u_dut.u_board_bus.to_board_q ;
  (* hierconn *) wire \u_dut.u_board_bus.to_out_q ;
  (* hierconn *) wire [31:0] \u_dut.u_board_bus.bus_address_i ;
  (* hierconn *) wire \u_dut.u_record_out.fetched_q ;
  (* hierconn *) wire \u_dut.u_record_out.there_q ;
  (* hierconn *) wire \u_dut.u_board_regs.is_active ;
  (* hierconn *) wire \u_dut.u_board_regs.cpuif_req ;
  (* hierconn *) wire \u_dut.u_drive_crypto.u_regs.is_active ;
  (* hierconn *) wire \u_dut.u_drive_crypto.u_regs.cpuif_req ;

  localparam logic [1:0] RxIdle = 2'd0;
  localparam logic [1:0] RxStart = 2'd1;
  localparam logic [1:0] RxData = 2'd2;
  localparam logic [1:0] RxStop = 2'd3;
  localparam logic [2:0] Command = 3'd0;
  localparam logic [2:0] Count = 3'd1;
  localparam logic [2:0] Address = 3'd2;
  localparam logic [2:0] Data = 3'd3;
  localparam logic [2:0] Access = 3'd4;
  localparam logic [2:0] Answer = 3'd5;

  wire [1:0] rx_state = \u_dut.u_uart_rx.state_q ;
  wire [2:0] rx_timer = \u_dut.u_uart_rx.timer_q ;
  wire rx_valid = \u_dut.u_uart_rx.valid_q ;
  wire rx_broken = \u_dut.u_uart_rx.broken_q ;
  wire [4:0] waiting = \u_dut.u_byte_fifo.tail_q - \u_dut.u_byte_fifo.head_q ;
  wire [2:0] state = \u_dut.u_uart_bone.state_q ;
  wire [7:0] left = \u_dut.u_uart_bone.left_q ;
  wire taken = \u_dut.u_uart_bone.rx_taken ;
  wire [1:0] place = \u_dut.u_uart_bone.byte_q ;
  wire [14:0] timer = \u_dut.u_uart_bone.timer_q ;
  wire [3:0] tx_left = \u_dut.u_uart_tx.left_q ;
  wire [2:0] tx_timer = \u_dut.u_uart_tx.timer_q ;
  wire writes = \u_dut.u_uart_bone.write_q ;
  wire [9:0] shift = \u_dut.u_uart_tx.shift_q ;
  wire decoded = \u_dut.u_board_bus.decoded_q ;
  wire to_engine = \u_dut.u_board_bus.to_engine_q ;
  wire to_board = \u_dut.u_board_bus.to_board_q ;
  wire to_out = \u_dut.u_board_bus.to_out_q ;
  wire [31:0] address = \u_dut.u_board_bus.bus_address_i ;
  wire penable = \u_dut.u_board_bus.penable_q ;
  wire ready = \u_dut.u_board_bus.ready_q ;
  wire out_ready = \u_dut.u_board_bus.out_ready_q ;
  wire fetched = \u_dut.u_record_out.fetched_q ;
  wire there = \u_dut.u_record_out.there_q ;
  wire engine_active = \u_dut.u_drive_crypto.u_regs.is_active ;
  wire board_active = \u_dut.u_board_regs.is_active ;

  // The line is high and has been for as long as the receiver looks back.
  wire quiet = uart_rx_i && \u_dut.u_uart_rx.sync_q == 2'b11;

  wire idle = rx_state == RxIdle && !rx_valid && !rx_broken && waiting == '0 &&
              state == Command && tx_left == '0;

  // ---- How long each thing that is under way may still take, in clocks -----------------------------

  localparam logic [16:0] ByteOut = 10 * ClocksPerBit + 1;
  localparam logic [16:0] WordOut = 6 + 4 * ByteOut;  // an access of six clocks, then its answer

  // A byte on its way in, until it is there.
  wire rx_busy = rx_state == RxData || rx_state == RxStop;
  wire [5:0] rx_clocks = (rx_state == RxIdle ? '0 : 6'(rx_timer) + 1) +
                         (rx_state == RxData ? (8 - 6'(\u_dut.u_uart_rx.index_q )) * ClocksPerBit
                                             : '0) + 6'(rx_broken);
  wire [5:0] bytes = 6'(waiting) + 6'(rx_busy) + 6'(rx_valid);

  // An access, with the accesses and answers that follow it without another byte.
  wire [16:0] access_clocks = ready ? 1 : !decoded ? 6 :
                              to_engine || to_board ? 3 - 17'(penable) :
                              to_out ? (out_ready ? 2 : there ? 3 : 5 - 17'(fetched)) : 2;
  wire answering = state == Access || state == Answer;
  wire [16:0] answer_clocks =
      state == Access && writes ? access_clocks :
      state == Access ? access_clocks + 4 * ByteOut + (17'(left) - 1) * WordOut :
      (4 - 17'(place)) * ByteOut + 17'(left) * WordOut;

  // The byte on its way out.
  wire [5:0] tx_clocks = tx_left == '0 ? '0 : (6'(tx_left) - 1) * ClocksPerBit + 6'(tx_timer) + 1;

  localparam logic [5:0] RxBound = 9 * ClocksPerBit + 1 + ClocksPerBit;
  localparam logic [5:0] TxBound = 10 * ClocksPerBit;
  localparam logic [16:0] AnswerBound = 255 * WordOut + 17'(TxBound);

  // ---- What is claimed ---------------------------------------------------------------------------

  // Clocks of a quiet line for which a byte has been on its way in, an answer under way, half a
  // command there and nothing more, a byte on its way out.
  logic [6:0] coming_q, sending_q;
  logic [17:0] answering_q;
  logic [15:0] half_q;
  logic was_quiet_q, started_q;
  logic [5:0] bytes_q;
  initial started_q = 1'b0;
  wire half = !answering && state != Command && waiting == '0;

  always_ff @(posedge clk_i) begin
    coming_q    <= rst_ni && quiet && rx_clocks != '0 ? coming_q + 1 : '0;
    answering_q <= rst_ni && answering ? answering_q + 1 : '0;
    half_q      <= rst_ni && half ? half_q + 1 : '0;
    sending_q   <= rst_ni && tx_left != '0 ? sending_q + 1 : '0;
    was_quiet_q <= rst_ni && quiet;
    bytes_q     <= taken ? bytes - 1 : bytes;
    started_q   <= 1'b1;
    if (!started_q) begin
      assume (!rst_ni);
    end
    if (rst_ni && started_q) begin
      // On a quiet line the receiver comes to rest, and bytes get fewer with each one taken.
      a_coming: assert (coming_q <= RxBound);
      a_bytes: assert (!was_quiet_q || bytes <= bytes_q);
      a_few: assert (bytes <= FifoBytes + 1);
      // Every answer ends, half a command is dropped, a byte is sent; a byte that waits is taken
      // at once but in an answer.
      a_answering: assert (answering_q <= AnswerBound);
      a_half: assert (half_q <= TimeoutClocks + 1);
      a_sending: assert (sending_q <= TxBound);
      a_taken: assert (answering || waiting == '0 || taken);
      // When nothing of this goes on, the bridge is idle, and the line is high.
      a_idle: assert (idle || rx_clocks != '0 || bytes != '0 || answering || half ||
                      tx_left != '0);
      a_high: assert (tx_left != '0 || shift == '1);
      // Why: there was enough at the beginning, and each clock takes one.
      i_coming: assert (7'(coming_q) + 7'(rx_clocks) <= RxBound);
      i_answering: assert (!answering || answering_q + 18'(answer_clocks) + 18'(tx_clocks) <=
                           AnswerBound);
      i_half: assert (!half || half_q + 16'(timer) <= TimeoutClocks);
      i_sending: assert (tx_left == '0 || sending_q + 7'(tx_clocks) <= TxBound);
      i_fifo: assert (waiting <= FifoBytes);
      i_rx: assert (rx_state == RxIdle || (rx_timer < ClocksPerBit && !rx_valid));
      i_timer: assert (timer <= TimeoutClocks);
      i_write: assert ((state != Data || writes) && (state != Answer || !writes));
      i_left: assert ((state != Access && state != Data) || left != '0);
      i_place: assert ((state != Count && state != Access) || place == '0);
      i_tx: assert (tx_left <= 10 && tx_timer < ClocksPerBit);
      i_stop: assert (tx_left == '0 || (shift | ~(10'h3ff << (tx_left - 1))) == '1);
      i_state: assert (state <= Answer);
      // A register block is asked by an access under way, and answers at once.
      i_regs: assert (board_active == \u_dut.u_board_regs.cpuif_req );
      i_engine_regs: assert (engine_active == \u_dut.u_drive_crypto.u_regs.cpuif_req );
      i_board_asked: assert (!board_active || (state == Access && to_board));
      i_engine_asked: assert (!engine_active || (state == Access && to_engine));
      i_ready: assert (!ready || (state == Access && !penable && !fetched && !there && !out_ready));
      i_out_ready: assert (!out_ready || (state == Access && !fetched && !there && to_out));
      i_decoded: assert (!decoded || state == Access);
      i_begun: assert (decoded || ready || !(penable || fetched || there || out_ready));
      i_fetched: assert (!(fetched || there) || (state == Access && to_out && !out_ready));
      i_one: assert (!fetched || !there);
      i_to: assert (!decoded || (to_engine == (address[31:8] == board_pkg::EngineBase[31:8]) &&
                                 to_board == (address[31:8] == board_pkg::BoardBase[31:8]) &&
                                 to_out == (address[31:4] == board_pkg::OutWindow[31:4] &&
                                            !writes)));
      i_penable: assert (penable == (board_active || engine_active));
    end
  end

endmodule
