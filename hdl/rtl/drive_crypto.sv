// The drive's crypto engine: record frames in, record frames out, a register bus beside them.
//
// README.md here says what the frames look like, how a key comes in and what zeroize does.
//
// Ports
//   s_apb_*          APB4 slave, registers of engine.rdl
//   transport_key_i  key that sealed data keys are wrapped under (RFC 3394); static
//   in_*             record frames in, in 16-byte words; last marks their end
//   out_*            result frames, one for each frame in, in order; last marks their end
//   irq_o            interrupt, as register INTERRUPT says: a fault, or all that was under way is done
//
// Throughput WordBytes a clock, at every width in words of 16 bytes. Latency from the last of a frame to
// the header of its result 44 clocks at 16 bytes a clock; 59, 60 and 66 at 8, 4 and 1. A record takes,
// beside its data and AAD, what drive_crypto_pkg::record_overhead says.

module drive_crypto #(
    parameter int unsigned WordBytes = 16,      // bytes a clock: 16, 8, 4 or 1
    parameter int unsigned BankBytes = 262144,  // longest record; a power of two, 256 or more
    parameter logic [31:0] BuildHash = 0,       // shown by register BUILD_HASH
    parameter bit Simulated = 1'b0              // shown by register FEATURES
) (
    input  logic         clk_i,
    input  logic         rst_ni,
    input  logic         s_apb_psel,
    input  logic         s_apb_pwrite,
    input  logic         s_apb_penable,
    input  logic [2:0]   s_apb_pprot,
    input  logic [7:0]   s_apb_paddr,
    input  logic [31:0]  s_apb_pwdata,
    input  logic [3:0]   s_apb_pstrb,
    output logic         s_apb_pready,
    output logic [31:0]  s_apb_prdata,
    output logic         s_apb_pslverr,
    input  logic [255:0] transport_key_i,
    input  logic         in_valid_i,
    output logic         in_ready_o,
    input  logic [127:0] in_data_i,
    input  logic         in_last_i,
    output logic         out_valid_o,
    input  logic         out_ready_i,
    output logic [127:0] out_data_o,
    output logic         out_last_o,
    output logic         irq_o
);

  localparam int unsigned BankWords = BankBytes / 16;

  // Parts of the engine with a clear wire each.
  localparam int unsigned Clears = 8;
  localparam int unsigned ClearControl = 0;
  localparam int unsigned ClearIssue = 1;
  localparam int unsigned ClearCipher = 2;
  localparam int unsigned ClearDelay = 3;
  localparam int unsigned ClearExit = 4;
  localparam int unsigned ClearHash = 5;
  localparam int unsigned ClearLedger = 6;
  localparam int unsigned ClearOutput = 7;  // and the buffer

  // ---- Registers -------------------------------------------------------------------------------

  logic command_zeroize, command_load_sealed, command_load_plain, command_lock_plain;
  logic command_counters_clear, command_counters_snapshot;
  logic [319:0] sealed_key;
  logic [255:0] plain_key;
  logic [15:0] pace_rate;
  logic ready, test_active, test_done, test_ok, test_broken, key_valid, key_loading, plain_locked;
  logic [Clears-1:0] clear;
  logic fault_q, unwrap_failed, idle, entry_clear;
  logic [63:0] cycles_busy, cycles_stall_source, cycles_stall_sink;
  logic [63:0] records, bytes, tag_failures;
  logic [31:0] longest_gap, longest_latency;
  logic [7:0] plain_written, plain_strobes;
  logic load_refused, idle_q;
  logic [2:0] test_step;
  logic irq_fault, irq_done, irq_fault_enable, irq_done_enable, irq_q;

  drive_crypto_regs u_regs (
      .clk                                (clk_i),
      .arst_n                             (rst_ni),
      .s_apb_psel,
      .s_apb_pwrite,
      .s_apb_penable,
      .s_apb_pprot,
      .s_apb_paddr,
      .s_apb_pwdata,
      .s_apb_pstrb,
      .s_apb_pready,
      .s_apb_prdata,
      .s_apb_pslverr,
      .hwif_in_key_entry_clear            (entry_clear),
      .hwif_in_plain_locked               (plain_locked),
      .hwif_in_build_hash_value           (BuildHash),
      .hwif_in_features_bank_log2         (5'($clog2(BankBytes))),
      .hwif_in_features_simulated         (Simulated),
      .hwif_in_promise_word_bytes         (8'(WordBytes)),
      .hwif_in_promise_overhead           (8'(drive_crypto_pkg::record_overhead(WordBytes))),
      .hwif_out_interrupt_fault_enable    (irq_fault_enable),
      .hwif_out_interrupt_done_enable     (irq_done_enable),
      .hwif_out_interrupt_fault           (irq_fault),
      .hwif_in_interrupt_fault_hwset      (fault_q),
      .hwif_out_interrupt_done            (irq_done),
      .hwif_in_interrupt_done_hwset       (idle & ~idle_q),
      .hwif_out_ctrl_zeroize              (command_zeroize),
      .hwif_out_ctrl_load_sealed          (command_load_sealed),
      .hwif_out_ctrl_load_plain           (command_load_plain),
      .hwif_out_ctrl_lock_plain           (command_lock_plain),
      .hwif_out_ctrl_counters_clear       (command_counters_clear),
      .hwif_out_ctrl_counters_snapshot    (command_counters_snapshot),
      .hwif_in_status_ready               (ready),
      .hwif_in_status_self_test_done      (test_done),
      .hwif_in_status_self_test_ok        (test_ok),
      .hwif_in_status_key_valid           (key_valid),
      .hwif_in_status_key_loading         (key_loading),
      .hwif_in_status_plain_locked        (plain_locked),
      .hwif_in_status_zeroizing           (clear[ClearControl]),
      .hwif_in_status_fault               (fault_q),
      .hwif_in_status_unwrap_failed       (unwrap_failed),
      .hwif_in_status_idle                (idle),
      .hwif_in_status_load_refused        (load_refused),
      .hwif_in_status_self_test_step      (test_step),
      .hwif_out_pace_rate                 (pace_rate),
      .hwif_in_cycles_busy_lo_value       (cycles_busy[31:0]),
      .hwif_in_cycles_busy_hi_value       (cycles_busy[63:32]),
      .hwif_in_cycles_stall_source_lo_value(cycles_stall_source[31:0]),
      .hwif_in_cycles_stall_source_hi_value(cycles_stall_source[63:32]),
      .hwif_in_cycles_stall_sink_lo_value (cycles_stall_sink[31:0]),
      .hwif_in_cycles_stall_sink_hi_value (cycles_stall_sink[63:32]),
      .hwif_in_records_lo_value           (records[31:0]),
      .hwif_in_records_hi_value           (records[63:32]),
      .hwif_in_bytes_lo_value             (bytes[31:0]),
      .hwif_in_bytes_hi_value             (bytes[63:32]),
      .hwif_in_tag_failures_lo_value      (tag_failures[31:0]),
      .hwif_in_tag_failures_hi_value      (tag_failures[63:32]),
      .hwif_in_longest_gap_value          (longest_gap),
      .hwif_in_longest_latency_value      (longest_latency),
      .hwif_out_sealed_key_0_value        (sealed_key[319:288]),
      .hwif_out_sealed_key_1_value        (sealed_key[287:256]),
      .hwif_out_sealed_key_2_value        (sealed_key[255:224]),
      .hwif_out_sealed_key_3_value        (sealed_key[223:192]),
      .hwif_out_sealed_key_4_value        (sealed_key[191:160]),
      .hwif_out_sealed_key_5_value        (sealed_key[159:128]),
      .hwif_out_sealed_key_6_value        (sealed_key[127:96]),
      .hwif_out_sealed_key_7_value        (sealed_key[95:64]),
      .hwif_out_sealed_key_8_value        (sealed_key[63:32]),
      .hwif_out_sealed_key_9_value        (sealed_key[31:0]),
      .hwif_out_plain_key_0_value         (plain_key[255:224]),
      .hwif_out_plain_key_0_value_swmod   (plain_strobes[0]),
      .hwif_out_plain_key_1_value         (plain_key[223:192]),
      .hwif_out_plain_key_1_value_swmod   (plain_strobes[1]),
      .hwif_out_plain_key_2_value         (plain_key[191:160]),
      .hwif_out_plain_key_2_value_swmod   (plain_strobes[2]),
      .hwif_out_plain_key_3_value         (plain_key[159:128]),
      .hwif_out_plain_key_3_value_swmod   (plain_strobes[3]),
      .hwif_out_plain_key_4_value         (plain_key[127:96]),
      .hwif_out_plain_key_4_value_swmod   (plain_strobes[4]),
      .hwif_out_plain_key_5_value         (plain_key[95:64]),
      .hwif_out_plain_key_5_value_swmod   (plain_strobes[5]),
      .hwif_out_plain_key_6_value         (plain_key[63:32]),
      .hwif_out_plain_key_6_value_swmod   (plain_strobes[6]),
      .hwif_out_plain_key_7_value         (plain_key[31:0]),
      .hwif_out_plain_key_7_value_swmod   (plain_strobes[7])
  );

  // The bus holds its strobes for as long as a write takes: a word counts when it is written whole.
  assign plain_written = plain_strobes & {8{s_apb_pstrb == '1}};

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      idle_q <= 1'b0;
      irq_q  <= 1'b0;
    end else begin
      idle_q <= idle;
      irq_q  <= (irq_fault & irq_fault_enable) | (irq_done & irq_done_enable);
    end
  end

  assign irq_o = irq_q;

  // ---- Self test: has the streams and the key commands until it ended --------------------------

  logic usable, test_load, test_zeroize;
  logic [319:0] test_sealed_key;
  logic [255:0] test_transport_key;
  logic test_in_valid, test_in_last, test_out_ready, test_wrong;
  logic [127:0] test_in_data;
  logic in_valid, in_ready, in_last, out_valid, out_ready, out_last;
  logic [127:0] in_data, out_data;

  self_test u_self_test (
      .clk_i,
      .rst_ni,
      .active_o       (test_active),
      .done_o         (test_done),
      .ok_o           (test_ok),
      .broken_o       (test_broken),
      .step_o         (test_step),
      .zeroizing_i    (clear[ClearControl]),
      .key_valid_i    (key_valid),
      .unwrap_failed_i(unwrap_failed),
      .load_o         (test_load),
      .zeroize_o      (test_zeroize),
      .sealed_key_o   (test_sealed_key),
      .transport_key_o(test_transport_key),
      .in_valid_o     (test_in_valid),
      .in_ready_i     (in_ready),
      .in_data_o      (test_in_data),
      .in_last_o      (test_in_last),
      .out_valid_i    (out_valid),
      .out_ready_o    (test_out_ready),
      .out_data_i     (out_data),
      .out_last_i     (out_last),
      .wrong_o        (test_wrong)
  );

  assign in_valid   = test_active ? test_in_valid : in_valid_i;
  assign in_data    = test_active ? test_in_data : in_data_i;
  assign in_last    = test_active ? test_in_last : in_last_i;
  assign out_ready  = test_active ? test_out_ready : out_ready_i;
  assign in_ready_o  = in_ready & ~test_active;
  assign out_valid_o = out_valid & ~test_active;
  assign out_data_o  = test_active ? '0 : out_data;
  assign out_last_o  = out_last & ~test_active;

  assign usable = test_ok & ~fault_q;

  // The self test's records are let in before it has passed.
  logic issue_usable_q;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      issue_usable_q <= 1'b0;
    end else begin
      issue_usable_q <= (test_ok | test_active) & ~fault_q;
    end
  end

  // ---- Width -----------------------------------------------------------------------------------

  logic [3:0] phase;
  logic turn, phase_wrong;

  word_phase #(
      .WordBytes(WordBytes)
  ) u_word_phase (
      .clk_i,
      .rst_ni,
      .phase_o(phase),
      .wrong_o(phase_wrong)
  );

  assign turn = phase == '0;

  // ---- Keys ------------------------------------------------------------------------------------

  drive_crypto_pkg::round_keys_t round_keys;
  drive_crypto_pkg::key_parities_t key_parities;
  logic wipe, wiping, hash_key, hash_ready;
  logic keys_wrong, issue_wrong, delay_wrong, exit_wrong, output_wrong;

  key_control #(
      .Clears   (Clears),
      .WordBytes(WordBytes)
  ) u_key_control (
      .clk_i,
      .rst_ni,
      .zeroize_i           (command_zeroize),
      .load_sealed_i       (command_load_sealed),
      .load_plain_i        (command_load_plain),
      .lock_plain_i        (command_lock_plain),
      .sealed_key_i        (sealed_key),
      .plain_key_i         (plain_key),
      .plain_written_i     (plain_written),
      .entry_clear_o       (entry_clear),
      .transport_key_i,
      .usable_i            (usable),
      .fault_i             (fault_q),
      .test_zeroize_i      (test_zeroize),
      .test_load_i         (test_load),
      .test_sealed_key_i   (test_sealed_key),
      .test_transport_key_i(test_transport_key),
      .clear_o             (clear),
      .wipe_o              (wipe),
      .wiping_i            (wiping),
      .turn_i              (turn),
      .hash_key_o          (hash_key),
      .hash_ready_i        (hash_ready),
      .round_keys_o        (round_keys),
      .key_parities_o      (key_parities),
      .key_valid_o         (key_valid),
      .key_loading_o       (key_loading),
      .plain_locked_o      (plain_locked),
      .unwrap_failed_o     (unwrap_failed),
      .load_refused_o      (load_refused),
      .wrong_o             (keys_wrong)
  );

  // ---- Records in ------------------------------------------------------------------------------

  logic issue_active, issue_inside, issue_waiting, ledger_free, room, pace_open, data_taken;
  logic starved, blocked, paced;
  logic opens, torn, ended;
  logic [14:0] torn_words;
  logic [7:0] header_status, header_aad_len;
  logic [3:0] header_op;
  logic [18:0] header_data_len;
  logic [14:0] header_words;
  logic [2:0] issued_kind, exit_kind;
  record_pkg::slot_t issued_slot, exit_slot;
  logic aes_in_valid, aes_out_valid, aes_wrong;
  logic [1:0] aes_in_parity;
  logic [127:0] aes_in, aes_out;

  record_issue #(
      .BankBytes(BankBytes)
  ) u_issue (
      .clk_i,
      .rst_ni,
      .clear_i          (clear[ClearIssue]),
      .accept_i         (~clear[ClearIssue] & ~key_loading),
      .usable_i         (issue_usable_q),
      .key_valid_i      (key_valid),
      .turn_i           (turn),
      .hash_key_i       (hash_key),
      .in_valid_i       (in_valid),
      .in_ready_o       (in_ready),
      .in_data_i        (in_data),
      .in_last_i        (in_last),
      .free_i           (ledger_free),
      .room_i           (room),
      .pace_i           (pace_open),
      .open_o           (opens),
      .header_status_o  (header_status),
      .header_op_o      (header_op),
      .header_aad_len_o (header_aad_len),
      .header_data_len_o(header_data_len),
      .header_words_o   (header_words),
      .torn_o           (torn),
      .torn_words_o     (torn_words),
      .ended_o          (ended),
      .active_o         (issue_active),
      .inside_o         (issue_inside),
      .waiting_o        (issue_waiting),
      .data_taken_o     (data_taken),
      .starved_o        (starved),
      .blocked_o        (blocked),
      .paced_o          (paced),
      .slot_kind_o      (issued_kind),
      .slot_o           (issued_slot),
      .aes_valid_o      (aes_in_valid),
      .aes_block_o      (aes_in),
      .aes_parity_o     (aes_in_parity),
      .wrong_o          (issue_wrong)
  );

  pace_limiter u_pace_limiter (
      .clk_i,
      .rst_ni,
      .rate_i (pace_rate),
      .taken_i(data_taken),
      .open_o (pace_open)
  );

  // ---- Cipher, with the data waiting beside it ---------------------------------------------------

  aes_pipe #(
      .WordBytes(WordBytes)
  ) u_aes_pipe (
      .clk_i,
      .rst_ni,
      .phase_i    (phase),
      .clear_i    (clear[ClearCipher]),
      .rk_i       (round_keys),
      .rk_parity_i(key_parities),
      .valid_i    (aes_in_valid),
      .block_i    (aes_in),
      .parity_i   (aes_in_parity),
      .valid_o    (aes_out_valid),
      .block_o    (aes_out),
      .wrong_o    (aes_wrong)
  );

  slot_delay #(
      .Latency(drive_crypto_pkg::aes_latency(WordBytes))
  ) u_slot_delay (
      .clk_i,
      .rst_ni,
      .clear_i(clear[ClearDelay]),
      .kind_i (issued_kind),
      .slot_i (issued_slot),
      .kind_o (exit_kind),
      .slot_o (exit_slot),
      .wrong_o(delay_wrong)
  );

  // ---- Exit, authentication, judgement -----------------------------------------------------------

  logic exit_gcm, exit_decrypt, exit_last;
  logic [7:0] exit_aad_len;
  logic [18:0] exit_data_len;
  logic write, hash_valid, hash_first, hash_last, hash_key_valid, digest_valid;
  logic end_valid, end_gcm, end_decrypt;
  logic [127:0] write_data;
  logic [3:0] write_parity;
  logic [127:0] hash_block, hash_key_block, digest, end_seed;
  logic [17:0] hash_count;

  record_exit u_exit (
      .clk_i,
      .rst_ni,
      .clear_i         (clear[ClearExit]),
      .kind_i          (exit_kind),
      .slot_i          (exit_slot),
      .keystream_i     (aes_out),
      .gcm_i           (exit_gcm),
      .decrypt_i       (exit_decrypt),
      .aad_len_i       (exit_aad_len),
      .data_len_i      (exit_data_len),
      .last_o          (exit_last),
      .write_valid_o   (write),
      .write_data_o    (write_data),
      .write_parity_o  (write_parity),
      .hash_valid_o    (hash_valid),
      .hash_block_o    (hash_block),
      .hash_count_o    (hash_count),
      .hash_first_o    (hash_first),
      .hash_last_o     (hash_last),
      .hash_key_valid_o(hash_key_valid),
      .hash_key_o      (hash_key_block),
      .end_valid_o     (end_valid),
      .end_gcm_o       (end_gcm),
      .end_decrypt_o   (end_decrypt),
      .end_seed_o      (end_seed),
      .wrong_o         (exit_wrong)
  );

  ghash #(
      .WordBytes(WordBytes)
  ) u_ghash (
      .clk_i,
      .rst_ni,
      .clear_i       (clear[ClearHash]),
      .h_load_i      (hash_key_valid),
      .h_i           (hash_key_block),
      .h_ready_o     (hash_ready),
      .valid_i       (hash_valid),
      .block_i       (hash_block),
      .count_i       (hash_count),
      .first_i       (hash_first),
      .last_i        (hash_last),
      .digest_valid_o(digest_valid),
      .digest_o      (digest)
  );

  logic ledger_empty, ledger_fault, taken, record_counted, tag_failed, result_valid;
  logic [7:0] result_status;
  logic [3:0] result_op;
  logic [18:0] result_data_len;
  logic [14:0] result_words;
  logic [127:0] result_tag;

  record_ledger #(
      .WordBytes(WordBytes)
  ) u_ledger (
      .clk_i,
      .rst_ni,
      .clear_i          (clear[ClearLedger]),
      .open_i           (opens),
      .open_status_i    (header_status),
      .open_op_i        (header_op),
      .open_aad_len_i   (header_aad_len),
      .open_data_len_i  (header_data_len),
      .open_words_i     (header_words),
      .torn_i           (torn),
      .torn_words_i     (torn_words),
      .inside_i         (issue_inside),
      .exit_last_i      (exit_last),
      .exit_gcm_o       (exit_gcm),
      .exit_decrypt_o   (exit_decrypt),
      .exit_aad_len_o   (exit_aad_len),
      .exit_data_len_o  (exit_data_len),
      .end_valid_i      (end_valid),
      .end_gcm_i        (end_gcm),
      .end_decrypt_i    (end_decrypt),
      .end_seed_i       (end_seed),
      .digest_valid_i   (digest_valid),
      .digest_i         (digest),
      .free_o           (ledger_free),
      .empty_o          (ledger_empty),
      .result_valid_o   (result_valid),
      .result_status_o  (result_status),
      .result_op_o      (result_op),
      .result_data_len_o(result_data_len),
      .result_words_o   (result_words),
      .result_tag_o     (result_tag),
      .taken_i          (taken),
      .counted_o        (record_counted),
      .tag_failed_o     (tag_failed),
      .fault_o          (ledger_fault)
  );

  // ---- Buffer and records out --------------------------------------------------------------------

  logic read, discard, discarded, buffer_fault, output_busy;
  logic [127:0] read_data;
  logic [3:0] read_parity;

  record_buffer #(
      .BankWords(BankWords)
  ) u_buffer (
      .clk_i,
      .rst_ni,
      .clear_i     (clear[ClearOutput]),
      .wipe_i      (wipe),
      .wiping_o    (wiping),
      .promise_i   (data_taken),
      .room_o      (room),
      .write_i     (write),
      .write_data_i(write_data),
      .write_parity_i(write_parity),
      .read_i      (read),
      .discard_i   (discard),
      .discarded_o (discarded),
      .read_data_o (read_data),
      .read_parity_o(read_parity),
      .fault_o     (buffer_fault)
  );

  record_output u_output (
      .clk_i,
      .rst_ni,
      .clear_i          (clear[ClearOutput]),
      .fault_i          (fault_q),
      .result_valid_i   (result_valid),
      .result_status_i  (result_status),
      .result_op_i      (result_op),
      .result_data_len_i(result_data_len),
      .result_words_i   (result_words),
      .result_tag_i     (result_tag),
      .taken_o          (taken),
      .read_o           (read),
      .read_data_i      (read_data),
      .read_parity_i    (read_parity),
      .discard_o        (discard),
      .discarded_i      (discarded),
      .busy_o           (output_busy),
      .out_valid_o      (out_valid),
      .out_ready_i      (out_ready),
      .out_data_o       (out_data),
      .out_last_o       (out_last),
      .wrong_o          (output_wrong)
  );

  // ---- Inner checks, counters, state -------------------------------------------------------------

  // The cipher and the delay line beside it must agree on where a text block is.
  logic lost_step, lost_step_q;
  assign lost_step = !clear[ClearControl] && aes_out_valid !=
                     (exit_kind == record_pkg::SlotHashKey ||
                      (exit_gcm && (exit_kind == record_pkg::SlotData ||
                                    exit_kind == record_pkg::SlotEnd)));

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      lost_step_q <= 1'b0;
      fault_q     <= 1'b0;
    end else begin
      lost_step_q <= lost_step;
      if (test_broken || test_wrong || ledger_fault || buffer_fault || lost_step_q || aes_wrong ||
          phase_wrong || keys_wrong || issue_wrong || delay_wrong || exit_wrong ||
          output_wrong) begin
        fault_q <= 1'b1;
      end
    end
  end

  counters u_counters (
      .clk_i,
      .rst_ni,
      .clear_i              (command_counters_clear | test_active),
      .snapshot_i           (command_counters_snapshot),
      .busy_i               (issue_active | issue_waiting),
      .stall_source_i       (starved),
      .stall_sink_i         (blocked | (out_valid & ~out_ready)),
      .record_i             (record_counted),
      .bytes_i              (result_data_len),
      .tag_failed_i         (tag_failed),
      .cycles_busy_o        (cycles_busy),
      .cycles_stall_source_o(cycles_stall_source),
      .cycles_stall_sink_o  (cycles_stall_sink),
      .records_o            (records),
      .bytes_o              (bytes),
      .tag_failures_o       (tag_failures)
  );

  // A stream that is ready and finds nothing waits for its other side: no gap of the engine's.
  gap_counters u_gap_counters (
      .clk_i,
      .rst_ni,
      .clear_i          (command_counters_clear | test_active),
      .snapshot_i       (command_counters_snapshot),
      .inside_i         (issue_active | ~ledger_empty | output_busy),
      .moves_i          (in_ready | out_valid | paced),
      .ended_i          (ended),
      .out_valid_i      (out_valid),
      .out_ready_i      (out_ready),
      .out_last_i       (out_last),
      .longest_gap_o    (longest_gap),
      .longest_latency_o(longest_latency)
  );

  assign ready = usable & ~clear[ClearControl] & ~key_loading;
  assign idle  = ready & ~issue_active & ledger_empty & ~output_busy;

endmodule
