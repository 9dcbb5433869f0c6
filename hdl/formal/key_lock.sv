// The plain key port, once locked, stays locked until reset and is dead.
//
// Register block and key control as in drive_crypto; everything else around them is free. The
// expansion of the key and the unwrapping do not matter here: they are replaced by anything.

module key_lock (
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

  logic entry_clear, plain_locked;
  logic zeroize, load_sealed, load_plain, lock_plain;
  logic [255:0] plain_key;

  drive_crypto_regs u_regs (
      .clk                            (clk_i),
      .arst_n                         (rst_ni),
      .s_apb_psel,
      .s_apb_pwrite,
      .s_apb_penable,
      .s_apb_pprot,
      .s_apb_paddr,
      .s_apb_pwdata,
      .s_apb_pstrb,
      .hwif_in_key_entry_clear        (entry_clear),
      .hwif_in_plain_locked           (plain_locked),
      .hwif_out_ctrl_zeroize          (zeroize),
      .hwif_out_ctrl_load_sealed      (load_sealed),
      .hwif_out_ctrl_load_plain       (load_plain),
      .hwif_out_ctrl_lock_plain       (lock_plain),
      .hwif_out_plain_key_0_value     (plain_key[255:224]),
      .hwif_out_plain_key_1_value     (plain_key[223:192]),
      .hwif_out_plain_key_2_value     (plain_key[191:160]),
      .hwif_out_plain_key_3_value     (plain_key[159:128]),
      .hwif_out_plain_key_4_value     (plain_key[127:96]),
      .hwif_out_plain_key_5_value     (plain_key[95:64]),
      .hwif_out_plain_key_6_value     (plain_key[63:32]),
      .hwif_out_plain_key_7_value     (plain_key[31:0])
  );

  key_control u_control (
      .clk_i,
      .rst_ni,
      .zeroize_i           (zeroize),
      .load_sealed_i       (load_sealed),
      .load_plain_i        (load_plain),
      .lock_plain_i        (lock_plain),
      .sealed_key_i        ('0),
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
      .wiping_i,
      .turn_i,
      .hash_ready_i,
      .plain_locked_o      (plain_locked)
  );

  // What the design holds inside, by name.
  (* hierconn *) wire [2:0] \u_control.state_q ;
  (* hierconn *) wire [1:0] \u_control.load_q ;
  wire [2:0] state = \u_control.state_q ;
  wire [1:0] load = \u_control.load_q ;
  localparam logic [2:0] StTake = 3'd3;
  localparam logic [1:0] LoadPlain = 2'd2;

  // A plain load that was begun while the port was open and has not taken its key yet.
  logic began_open_q;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      began_open_q <= 1'b0;
    end else if (load_plain && usable_i && !plain_locked && !lock_plain) begin
      began_open_q <= 1'b1;
    end else if (state == StTake) begin
      began_open_q <= 1'b0;
    end
  end

  logic seen_reset_q;
  initial seen_reset_q = 1'b0;

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      seen_reset_q <= 1'b1;
    end
    if (seen_reset_q && rst_ni && $past(rst_ni)) begin
      // Reset alone opens the port, and the lock command closes it for good.
      a_stays_locked: assert (!$past(plain_locked) || plain_locked);
      a_lock_locks: assert (!$past(lock_plain) || plain_locked);
      // A locked port takes no word of a key...
      if ($past(plain_locked)) begin
        a_no_entry: assert (plain_key == $past(plain_key) || plain_key == '0);
        // ... and begins no plain load.
        a_no_new_load: assert (load != LoadPlain || $past(load) == LoadPlain);
      end
    end
    // A plain key is taken once for each command that came while the port was open.
    if (seen_reset_q && rst_ni) begin
      a_taken_once: assert (load != LoadPlain || state != StTake || began_open_q);
    end
  end

  // After a plain key was taken its load is not taken again; before that it is remembered.
  localparam logic [2:0] StClear = 3'd0;
  always_ff @(posedge clk_i) begin
    if (seen_reset_q && rst_ni) begin
      i_remembered: assert (load != LoadPlain || state != StClear || began_open_q);
      i_not_unwrapped: assert (load != LoadPlain || (state != 3'd1 && state != 3'd2));
    end
    if (!seen_reset_q) begin
      assume (!rst_ni);
    end
  end

endmodule
