// A whole board but for its pins: the engine behind a UART that speaks UARTBone.
//
// Addresses (bytes; UARTBone counts words of four): engine registers (engine.rdl) at 0, board
// registers (board.rdl) at 0x0001_0000, record windows at 0x1000_0000 and 0x2000_0000.
//
// Ports
//   clk_i            clock of everything
//   rst_ni           asynchronous reset, released in step with clk_i
//   transport_key_i  key that sealed data keys are wrapped under; static
//   uart_rx_i, uart_tx_o  the serial line: 8N1, ClocksPerBit clocks a bit

module board_top #(
    parameter int unsigned WordBytes = 16,          // bytes a clock of the engine: 16, 8, 4 or 1
    parameter int unsigned BankBytes = 65536,       // longest record; a power of two
    parameter int unsigned WindowWords = 512,       // of each record window; a power of two
    parameter logic [31:0] BuildHash = 0,           // shown by register BUILD_HASH
    parameter bit Simulated = 1'b0,                 // shown by register FEATURES
    parameter int unsigned ClocksPerBit = 4,
    parameter int unsigned TimeoutClocks = 16384    // half a command is dropped; hardware: 0.1 s
) (
    input  logic         clk_i,
    input  logic         rst_ni,
    input  logic [255:0] transport_key_i,
    input  logic         uart_rx_i,
    output logic         uart_tx_o
);

  // ---- Serial line and bridge --------------------------------------------------------------------

  logic line_valid, line_error, line_lost, rx_valid, rx_ready, tx_valid, tx_ready;
  logic [7:0] line_data, rx_data, tx_data;
  logic bus_valid, bus_ready, bus_write, timeout, bad_command, bus_error;
  logic [31:0] bus_address, bus_wdata, bus_rdata, rx_crc, rx_before, tx_crc;

  uart_rx #(
      .ClocksPerBit(ClocksPerBit)
  ) u_uart_rx (
      .clk_i,
      .rst_ni,
      .pin_i  (uart_rx_i),
      .valid_o(line_valid),
      .data_o (line_data),
      .error_o(line_error)
  );

  byte_fifo u_byte_fifo (
      .clk_i,
      .rst_ni,
      .valid_i(line_valid),
      .data_i (line_data),
      .lost_o (line_lost),
      .valid_o(rx_valid),
      .ready_i(rx_ready),
      .data_o (rx_data)
  );

  uart_bone #(
      .TimeoutClocks(TimeoutClocks)
  ) u_uart_bone (
      .clk_i,
      .rst_ni,
      .rx_valid_i   (rx_valid),
      .rx_ready_o   (rx_ready),
      .rx_data_i    (rx_data),
      .tx_valid_o   (tx_valid),
      .tx_ready_i   (tx_ready),
      .tx_data_o    (tx_data),
      .bus_valid_o  (bus_valid),
      .bus_ready_i  (bus_ready),
      .bus_write_o  (bus_write),
      .bus_address_o(bus_address),
      .bus_wdata_o  (bus_wdata),
      .bus_rdata_i  (bus_rdata),
      .rx_crc_o     (rx_crc),
      .rx_before_o  (rx_before),
      .tx_crc_o     (tx_crc),
      .timeout_o    (timeout),
      .bad_command_o(bad_command)
  );

  uart_tx #(
      .ClocksPerBit(ClocksPerBit)
  ) u_uart_tx (
      .clk_i,
      .rst_ni,
      .valid_i(tx_valid),
      .ready_o(tx_ready),
      .data_i (tx_data),
      .pin_o  (uart_tx_o)
  );

  // ---- Bus and board registers -------------------------------------------------------------------

  logic [1:0] psel, pready, pslverr;
  logic engine_psel, engine_penable, engine_pwrite, engine_pready;
  logic [7:0] engine_paddr;
  logic [31:0] engine_pwdata;
  logic penable, pwrite, in_write, in_commit, out_read, out_ack, out_ready, out_empty, bad_ack;
  logic [7:0] paddr;
  logic [31:0] pwdata, engine_rdata, board_rdata, out_rdata;
  logic [3:0][7:0] error_counts;
  logic flush, flushing, traffic_start, traffic_busy;
  logic [31:0] in_count, traffic_records, traffic_seed, traffic_good, traffic_bad;
  logic [15:0] in_free, in_staged, out_count, out_level;
  logic [18:0] traffic_size;
  logic [7:0] traffic_aad;
  logic [31:0] traffic_key_every;
  logic [319:0] traffic_key;
  logic key_start, key_busy;
  logic [3:0] traffic_op;
  logic [127:0] traffic_tag, traffic_check;

  board_bus u_board_bus (
      .clk_i,
      .rst_ni,
      .bus_valid_i   (bus_valid),
      .bus_ready_o   (bus_ready),
      .bus_write_i   (bus_write),
      .bus_address_i (bus_address),
      .bus_wdata_i   (bus_wdata),
      .bus_rdata_o   (bus_rdata),
      .error_o       (bus_error),
      .psel_o        (psel),
      .penable_o     (penable),
      .pwrite_o      (pwrite),
      .paddr_o       (paddr),
      .pwdata_o      (pwdata),
      .pready_i      (pready),
      .pslverr_i     (pslverr),
      .engine_rdata_i(engine_rdata),
      .board_rdata_i (board_rdata),
      .in_write_o    (in_write),
      .in_commit_o   (in_commit),
      .out_read_o    (out_read),
      .out_ack_o     (out_ack),
      .out_ready_i   (out_ready),
      .out_rdata_i   (out_rdata)
  );

  link_errors u_link_errors (
      .clk_i,
      .rst_ni,
      .event_i({bus_error | out_empty | bad_ack, bad_command, timeout, line_error | line_lost}),
      .count_o(error_counts)
  );

  board_regs u_board_regs (
      .clk                              (clk_i),
      .arst_n                           (rst_ni),
      .s_apb_psel                       (psel[1]),
      .s_apb_pwrite                     (pwrite),
      .s_apb_penable                    (penable),
      .s_apb_pprot                      (3'b000),
      .s_apb_paddr                      (paddr),
      .s_apb_pwdata                     (pwdata),
      .s_apb_pstrb                      (4'b1111),
      .s_apb_pready                     (pready[1]),
      .s_apb_prdata                     (board_rdata),
      .s_apb_pslverr                    (pslverr[1]),
      .hwif_in_board_features_window_log2(5'($clog2(WindowWords))),
      .hwif_out_board_ctrl_flush        (flush),
      .hwif_out_board_ctrl_traffic_start(traffic_start),
      .hwif_in_board_status_flushing    (flushing),
      .hwif_in_board_status_traffic_busy(traffic_busy),
      .hwif_in_in_count_value           (in_count),
      .hwif_in_in_state_free            (in_free),
      .hwif_in_in_state_staged          (in_staged),
      .hwif_in_out_count_value          (out_count),
      .hwif_in_out_level_value          (out_level),
      .hwif_in_link_errors_line         (error_counts[0]),
      .hwif_in_link_errors_timeouts     (error_counts[1]),
      .hwif_in_link_errors_bad_commands (error_counts[2]),
      .hwif_in_link_errors_bus          (error_counts[3]),
      .hwif_in_link_rx_crc_value        (rx_crc),
      .hwif_in_link_tx_crc_value        (tx_crc),
      .hwif_out_traffic_shape_size      (traffic_size),
      .hwif_out_traffic_shape_aad       (traffic_aad),
      .hwif_out_traffic_key_every_value (traffic_key_every),
      .hwif_out_traffic_key_0_value     (traffic_key[319:288]),
      .hwif_out_traffic_key_1_value     (traffic_key[287:256]),
      .hwif_out_traffic_key_2_value     (traffic_key[255:224]),
      .hwif_out_traffic_key_3_value     (traffic_key[223:192]),
      .hwif_out_traffic_key_4_value     (traffic_key[191:160]),
      .hwif_out_traffic_key_5_value     (traffic_key[159:128]),
      .hwif_out_traffic_key_6_value     (traffic_key[127:96]),
      .hwif_out_traffic_key_7_value     (traffic_key[95:64]),
      .hwif_out_traffic_key_8_value     (traffic_key[63:32]),
      .hwif_out_traffic_key_9_value     (traffic_key[31:0]),
      .hwif_out_traffic_shape_op        (traffic_op),
      .hwif_out_traffic_records_value   (traffic_records),
      .hwif_out_traffic_seed_value      (traffic_seed),
      .hwif_in_traffic_good_value       (traffic_good),
      .hwif_in_traffic_bad_value        (traffic_bad),
      .hwif_out_traffic_tag_0_value     (traffic_tag[127:96]),
      .hwif_out_traffic_tag_1_value     (traffic_tag[95:64]),
      .hwif_out_traffic_tag_2_value     (traffic_tag[63:32]),
      .hwif_out_traffic_tag_3_value     (traffic_tag[31:0]),
      .hwif_in_traffic_check_0_value    (traffic_check[127:96]),
      .hwif_in_traffic_check_1_value    (traffic_check[95:64]),
      .hwif_in_traffic_check_2_value    (traffic_check[63:32]),
      .hwif_in_traffic_check_3_value    (traffic_check[31:0])
  );

  // ---- Record streams: windows or traffic generator, through the tracker to the engine -------------

  logic window_in_valid, traffic_in_valid, in_valid, in_ready, out_valid, result_ready;
  logic staged_valid, staged_ready;
  logic window_out_ready, engine_in_valid, engine_in_ready;
  logic engine_in_last, engine_out_valid, engine_out_ready, engine_out_last;
  logic [127:0] window_in_data, traffic_in_data, staged_data, engine_in_data, engine_out_data;

  record_in_window #(
      .Words(WindowWords)
  ) u_record_in (
      .clk_i,
      .rst_ni,
      .clear_i    (flush | flushing),
      .write_i    (in_write),
      .data_i     (bus_wdata),
      .commit_i   (in_commit),
      .match_i    (bus_wdata == rx_before),
      .count_o    (in_count),
      .free_o     (in_free),
      .staged_o   (in_staged),
      .out_valid_o(window_in_valid),
      .out_ready_i(in_ready & ~traffic_busy),
      .out_data_o (window_in_data)
  );

  record_out_window #(
      .Words(WindowWords)
  ) u_record_out (
      .clk_i,
      .rst_ni,
      .clear_i    (flush | flushing),
      .in_valid_i (out_valid & ~traffic_busy),
      .in_ready_o (window_out_ready),
      .in_data_i  (engine_out_data),
      .read_i     (out_read),
      .ready_o    (out_ready),
      .data_o     (out_rdata),
      .empty_o    (out_empty),
      .ack_i      (out_ack),
      .ack_data_i (bus_wdata),
      .bad_ack_o  (bad_ack),
      .count_o    (out_count),
      .level_o    (out_level)
  );

  traffic u_traffic (
      .clk_i,
      .rst_ni,
      .start_i    (traffic_start),
      .stop_i     (flush | flushing),
      .busy_o     (traffic_busy),
      .op_i       (traffic_op),
      .aad_bytes_i(traffic_aad),
      .bytes_i    (traffic_size),
      .records_i  (traffic_records),
      .seed_i     (traffic_seed),
      .tag_i      (traffic_tag),
      .key_every_i(traffic_key_every),
      .key_start_o(key_start),
      .key_busy_i (key_busy),
      .good_o     (traffic_good),
      .bad_o      (traffic_bad),
      .check_o    (traffic_check),
      .out_valid_o(traffic_in_valid),
      .out_ready_i(in_ready),
      .out_data_o (traffic_in_data),
      .in_valid_i (out_valid),
      .in_data_i  (engine_out_data),
      .in_last_i  (engine_out_last)
  );

  assign in_valid     = traffic_busy ? traffic_in_valid : window_in_valid;
  assign result_ready = traffic_busy | window_out_ready;

  // The tracker counts the words of a record by its header, which takes its time.
  stream_stage u_stage (
      .clk_i,
      .rst_ni,
      .clear_i    (flush | flushing),
      .in_valid_i (in_valid),
      .in_ready_o (in_ready),
      .in_data_i  (traffic_busy ? traffic_in_data : window_in_data),
      .out_valid_o(staged_valid),
      .out_ready_i(staged_ready),
      .out_data_o (staged_data)
  );

  frame_tracker u_frame_tracker (
      .clk_i,
      .rst_ni,
      .flush_i           (flush),
      .flushing_o        (flushing),
      .in_valid_i        (staged_valid),
      .in_ready_o        (staged_ready),
      .in_data_i         (staged_data),
      .engine_in_valid_o (engine_in_valid),
      .engine_in_ready_i (engine_in_ready),
      .engine_in_data_o  (engine_in_data),
      .engine_in_last_o  (engine_in_last),
      .engine_out_valid_i(engine_out_valid),
      .engine_out_ready_o(engine_out_ready),
      .engine_out_last_i (engine_out_last),
      .out_valid_o       (out_valid),
      .out_ready_i       (result_ready)
  );

  key_loader u_key_loader (
      .clk_i,
      .rst_ni,
      .start_i       (key_start),
      .busy_o        (key_busy),
      .sealed_key_i  (traffic_key),
      .host_psel_i   (psel[0]),
      .host_penable_i(penable),
      .host_pwrite_i (pwrite),
      .host_paddr_i  (paddr),
      .host_pwdata_i (pwdata),
      .host_pready_o (pready[0]),
      .apb_psel_o    (engine_psel),
      .apb_penable_o (engine_penable),
      .apb_pwrite_o  (engine_pwrite),
      .apb_paddr_o   (engine_paddr),
      .apb_pwdata_o  (engine_pwdata),
      .apb_pready_i  (engine_pready)
  );

  // ---- Engine --------------------------------------------------------------------------------------

  // Registers on both sides: the paths through tracker and windows end before the engine's begin. Two
  // on the way in: one lies where the words come from, one beside the engine.
  logic near_valid, near_ready, near_last;
  logic core_in_valid, core_in_ready, core_in_last, core_out_valid, core_out_ready, core_out_last;
  logic unused_irq;
  logic [127:0] near_data, core_in_data, core_out_data;

  stream_skid #(
      .Width($bits({near_last, near_data}))
  ) u_skid_near (
      .clk_i,
      .rst_ni,
      .in_valid_i (engine_in_valid),
      .in_ready_o (engine_in_ready),
      .in_data_i  ({engine_in_last, engine_in_data}),
      .out_valid_o(near_valid),
      .out_ready_i(near_ready),
      .out_data_o ({near_last, near_data})
  );

  stream_skid #(
      .Width($bits({core_in_last, core_in_data}))
  ) u_skid_in (
      .clk_i,
      .rst_ni,
      .in_valid_i (near_valid),
      .in_ready_o (near_ready),
      .in_data_i  ({near_last, near_data}),
      .out_valid_o(core_in_valid),
      .out_ready_i(core_in_ready),
      .out_data_o ({core_in_last, core_in_data})
  );

  stream_skid #(
      .Width($bits({core_out_last, core_out_data}))
  ) u_skid_out (
      .clk_i,
      .rst_ni,
      .in_valid_i (core_out_valid),
      .in_ready_o (core_out_ready),
      .in_data_i  ({core_out_last, core_out_data}),
      .out_valid_o(engine_out_valid),
      .out_ready_i(engine_out_ready),
      .out_data_o ({engine_out_last, engine_out_data})
  );

  drive_crypto #(
      .WordBytes(WordBytes),
      .BankBytes(BankBytes),
      .BuildHash(BuildHash),
      .Simulated(Simulated)
  ) u_drive_crypto (
      .clk_i,
      .rst_ni,
      .s_apb_psel   (engine_psel),
      .s_apb_penable(engine_penable),
      .s_apb_pwrite (engine_pwrite),
      .s_apb_pprot  (3'b000),
      .s_apb_paddr  (engine_paddr),
      .s_apb_pwdata (engine_pwdata),
      .s_apb_pstrb  (4'b1111),
      .s_apb_pready (engine_pready),
      .s_apb_prdata (engine_rdata),
      .s_apb_pslverr(pslverr[0]),
      .transport_key_i,
      .in_valid_i   (core_in_valid),
      .in_ready_o   (core_in_ready),
      .in_data_i    (core_in_data),
      .in_last_i    (core_in_last),
      .out_valid_o  (core_out_valid),
      .out_ready_i  (core_out_ready),
      .out_data_o   (core_out_data),
      .out_last_o   (core_out_last),
      .irq_o        (unused_irq)
  );

endmodule
