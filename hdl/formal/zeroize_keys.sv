// Whatever the cause, two clocks after it no register below key_control and no key entry register
// holds a bit of a key, and none comes back before the next load; the wipe ends in time.
//
// From any state, reachable or not. The S-boxes' tables do not matter and are replaced by anything.

module zeroize_keys (
    input logic         clk_i,
    input logic         rst_ni,
    input logic         s_apb_psel,
    input logic         s_apb_pwrite,
    input logic         s_apb_penable,
    input logic [2:0]   s_apb_pprot,
    input logic [7:0]   s_apb_paddr,
    input logic [31:0]  s_apb_pwdata,
    input logic [3:0]   s_apb_pstrb,
    input logic [255:0] transport_key_i,
    input logic         usable_i,
    input logic         fault_i,
    input logic         test_zeroize_i,
    input logic         test_load_i,
    input logic [319:0] test_sealed_key_i,
    input logic [255:0] test_transport_key_i,
    input logic [7:0]   plain_written_i,
    input logic         wiping_i,
    input logic         turn_i,
    input logic         hash_ready_i
);

  localparam int unsigned Clears = 2;

  logic entry_clear, plain_locked, clear;
  logic [Clears-1:0] clears;
  logic zeroize, load_sealed, load_plain, lock_plain;
  logic [255:0] plain_key;
  logic [319:0] sealed_key;

  drive_crypto_regs u_regs (
      .clk                        (clk_i),
      .arst_n                     (rst_ni),
      .s_apb_psel,
      .s_apb_pwrite,
      .s_apb_penable,
      .s_apb_pprot,
      .s_apb_paddr,
      .s_apb_pwdata,
      .s_apb_pstrb,
      .hwif_in_key_entry_clear    (entry_clear),
      .hwif_in_plain_locked       (plain_locked),
      .hwif_out_ctrl_zeroize      (zeroize),
      .hwif_out_ctrl_load_sealed  (load_sealed),
      .hwif_out_ctrl_load_plain   (load_plain),
      .hwif_out_ctrl_lock_plain   (lock_plain),
      .hwif_out_sealed_key_0_value(sealed_key[319:288]),
      .hwif_out_sealed_key_1_value(sealed_key[287:256]),
      .hwif_out_sealed_key_2_value(sealed_key[255:224]),
      .hwif_out_sealed_key_3_value(sealed_key[223:192]),
      .hwif_out_sealed_key_4_value(sealed_key[191:160]),
      .hwif_out_sealed_key_5_value(sealed_key[159:128]),
      .hwif_out_sealed_key_6_value(sealed_key[127:96]),
      .hwif_out_sealed_key_7_value(sealed_key[95:64]),
      .hwif_out_sealed_key_8_value(sealed_key[63:32]),
      .hwif_out_sealed_key_9_value(sealed_key[31:0]),
      .hwif_out_plain_key_0_value (plain_key[255:224]),
      .hwif_out_plain_key_1_value (plain_key[223:192]),
      .hwif_out_plain_key_2_value (plain_key[191:160]),
      .hwif_out_plain_key_3_value (plain_key[159:128]),
      .hwif_out_plain_key_4_value (plain_key[127:96]),
      .hwif_out_plain_key_5_value (plain_key[95:64]),
      .hwif_out_plain_key_6_value (plain_key[63:32]),
      .hwif_out_plain_key_7_value (plain_key[31:0])
  );

  key_control #(
      .Clears(Clears)
  ) u_dut (
      .clk_i,
      .rst_ni,
      .zeroize_i           (zeroize),
      .load_sealed_i       (load_sealed),
      .load_plain_i        (load_plain),
      .lock_plain_i        (lock_plain),
      .sealed_key_i        (sealed_key),
      .plain_key_i         (plain_key),
      .plain_written_i,
      .entry_clear_o       (entry_clear),
      .transport_key_i,
      .usable_i,
      .fault_i,
      .test_zeroize_i,
      .test_load_i,
      .test_sealed_key_i,
      .test_transport_key_i,
      .clear_o             (clears),
      .wiping_i,
      .turn_i,
      .hash_ready_i,
      .plain_locked_o      (plain_locked)
  );

  // all_zero: every register of key_control and below, but its own states and flags.
  `include "zeroize_keys.svh"

  (* hierconn *) wire [2:0] \u_dut.state_q ;
  (* hierconn *) wire [1:0] \u_dut.load_q ;
  (* hierconn *) wire [5:0] \u_dut.clear_count_q ;
  (* hierconn *) wire \u_dut.fault_q ;
  (* hierconn *) wire [7:0] \u_dut.plain_written_q ;
  (* hierconn *) wire \u_dut.expand_clear_q ;
  (* hierconn *) wire \u_dut.clear_starts_q ;
  (* hierconn *) wire \u_dut.unwrap_clear_q ;
  (* hierconn *) wire \u_dut.u_key_unwrap.done_q ;
  (* hierconn *) wire \u_dut.u_key_unwrap.ok_q ;
  (* hierconn *) wire \u_regs.cpuif_req ;
  (* hierconn *) wire \u_regs.cpuif_req_is_wr ;
  (* hierconn *) wire [7:0] \u_regs.cpuif_addr ;

  localparam logic [2:0] StClear = 3'd0;
  localparam logic [2:0] StEmpty = 3'd1;
  localparam logic [2:0] StUnwrap = 3'd2;
  localparam logic [2:0] StTake = 3'd3;
  localparam logic [5:0] ClearClocks = 6'd31;

  wire [2:0] state = \u_dut.state_q ;
  wire [1:0] load = \u_dut.load_q ;
  wire [5:0] clear_count = \u_dut.clear_count_q ;
  wire refused = state == StUnwrap && \u_dut.u_key_unwrap.done_q && !\u_dut.u_key_unwrap.ok_q ;
  wire forgets = zeroize || test_zeroize_i || refused || (fault_i && !\u_dut.fault_q );
  wire loads = test_load_i || (load_sealed && usable_i) ||
               (load_plain && usable_i && !plain_locked && !lock_plain &&
                \u_dut.plain_written_q == '1);
  // A key word written at the very clock of the wipe is a new one and stays.
  wire entry_written = \u_regs.cpuif_req && \u_regs.cpuif_req_is_wr && \u_regs.cpuif_addr [7];

  // Registers of their own follow the state, so that no wire has thousands of loads: from reset on
  // they say the same as it does. Any state means any in which they do and the count is in its range.
  wire starts = state == StClear && clear_count == '0;
  wire clears_follow = clear_count <= ClearClocks && clears == {Clears{state == StClear}} &&
                       \u_dut.expand_clear_q == (state == StClear) &&
                       \u_dut.clear_starts_q == starts &&
                       \u_dut.unwrap_clear_q ==
                       (starts || !(state == StClear || state == StUnwrap || state == StTake));
  assign clear = clears[0];

  logic caused_q, caused_2_q, forgot_q, forgot_2_q, entry_written_q;
  logic was_reset_q, first_clock_q;
  logic known_q;  // a cause or a reset came: from here on the state is no longer any
  initial begin
    caused_q = 1'b0;
    caused_2_q = 1'b0;
    forgot_q = 1'b0;
    forgot_2_q = 1'b0;
    entry_written_q = 1'b0;
    was_reset_q = 1'b0;
    known_q = 1'b0;
    first_clock_q = 1'b0;
  end

  logic started_q;  // there is a past to look at
  initial started_q = 1'b0;

  always_ff @(posedge clk_i) begin
    started_q <= 1'b1;
    if (!started_q) begin
      assume (clears_follow);
    end
    a_follow: assert (clears_follow);
  end

  always_ff @(posedge clk_i) begin
    caused_q        <= rst_ni && (forgets || loads);
    caused_2_q      <= rst_ni && caused_q;
    forgot_q        <= rst_ni && forgets;
    forgot_2_q      <= rst_ni && forgot_q && !(forgets || loads);
    entry_written_q <= entry_written;
    was_reset_q     <= !rst_ni;
    known_q         <= known_q || caused_q || !rst_ni;
    first_clock_q   <= rst_ni && was_reset_q;

    // Every cause begins a wipe, whatever the state.
    a_begins: assert (!caused_q || !rst_ni || (state == StClear && clear_count == '0));
    // One clock of it, and no key is left, neither sealed nor plain nor as round keys.
    a_keys: assert (!caused_2_q || all_zero);
    // Nor in the entry registers, but before a load, which needs them.
    a_entry: assert (!forgot_2_q || entry_written_q || {sealed_key, plain_key} == '0);
    // Nothing comes back while the wipe goes on and without a key.
    a_stays: assert (!rst_ni || !known_q || state != StClear || clear_count == '0 || all_zero);
    a_empty: assert (!rst_ni || !known_q || state != StEmpty || all_zero);
    // Reset cannot reach the S-box outputs: the first clock after it does.
    a_reset: assert (!first_clock_q || all_zero);
  end

  // The wipe ends when its clocks are over and the banks are wiped, not earlier and not later.
  always_ff @(posedge clk_i) begin
    if (started_q && rst_ni && $past(rst_ni)) begin
      a_long: assert ($past(!clear) || clear || $past(clear_count) == ClearClocks);
      a_ends: assert (!$past(clear && clear_count == ClearClocks && !wiping_i) || !clear ||
                      caused_q);
      a_counts: assert (!$past(clear && clear_count < ClearClocks) || caused_q ||
                        clear_count == $past(clear_count) + 6'd1);
      a_range: assert (!known_q || clear_count <= ClearClocks);
    end
  end

endmodule
