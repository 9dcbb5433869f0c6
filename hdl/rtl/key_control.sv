// Keys: how they come in, and how everything made with them is zeroized.
//
// A load (sealed, plain or of the self test) zeroizes first, then unwraps (RFC 3394, sealed only),
// expands, and has the hash key and its powers made. A sealed key that fails its integrity check
// zeroizes again. A plain key is loaded only when all its words were written since the entry registers
// were wiped last. No key leaves this module but as round keys for the cipher.
//
// Zeroize holds clear_o until the delay line was overwritten and both halves of the buffer were
// wiped: at most BankWords + 4 clocks and no less than aes_latency + 3, plus one from the command.
//
// Ports
//   zeroize_i, load_*_i, lock_plain_i   commands, one clock each
//   sealed_key_i, plain_key_i   what the entry registers hold;  entry_clear_o  wipe them
//   plain_written_i   a word of the plain key is being written, whole
//   transport_key_i   the key that sealed keys are wrapped under
//   usable_i          self test passed and no fault: loads are taken
//   fault_i           its rise zeroizes
//   test_*_i          the self test's commands, sealed key and the key it is wrapped under
//   clear_o           everything drops what it holds: the same in every bit, each for a part of
//                     the engine, so that no wire has thousands of loads
//   wipe_o            the buffer starts to wipe
//   wiping_i          it is not wiped yet
//   load_refused_o    the last load_*_i had no effect
//   wrong_o           a register of control is not what it was set to
//   turn_i            a word may be let in;  hash_key_o  until then: encrypt the zero block;  hash_ready_i  its powers are there
//
// Latency, beside zeroize: plain 108 clocks to the last round key, sealed in addition what
// key_unwrap takes, then aes_latency + 20 at most for the hash key and its powers, and up to a word's
// clocks before.

module key_control #(
    parameter int unsigned Clears = 8,     // bits of clear_o
    parameter int unsigned WordBytes = 16  // bytes a clock: 16, 8, 4 or 1
) (
    input  logic                                  clk_i,
    input  logic                                  rst_ni,
    input  logic                                  zeroize_i,
    input  logic                                  load_sealed_i,
    input  logic                                  load_plain_i,
    input  logic                                  lock_plain_i,
    input  logic                          [319:0] sealed_key_i,
    input  logic                          [255:0] plain_key_i,
    input  logic                          [  7:0] plain_written_i,
    output logic                                  entry_clear_o,
    input  logic                          [255:0] transport_key_i,
    input  logic                                  usable_i,
    input  logic                                  fault_i,
    input  logic                                  test_zeroize_i,
    input  logic                                  test_load_i,
    input  logic                          [319:0] test_sealed_key_i,
    input  logic                          [255:0] test_transport_key_i,
    output logic                     [Clears-1:0] clear_o,
    output logic                                  wipe_o,
    input  logic                                  wiping_i,
    input  logic                                  turn_i,
    output logic                                  hash_key_o,
    input  logic                                  hash_ready_i,
    output drive_crypto_pkg::round_keys_t         round_keys_o,
    output drive_crypto_pkg::key_parities_t       key_parities_o,
    output logic                                  key_valid_o,
    output logic                                  key_loading_o,
    output logic                                  plain_locked_o,
    output logic                                  unwrap_failed_o,
    output logic                                  load_refused_o,
    output logic                                  wrong_o
);

  typedef enum logic [2:0] {
    StClear,
    StEmpty,
    StUnwrap,
    StTake,
    StExpand,
    StHash,
    StPowers,
    StValid
  } state_e;

  typedef enum logic [1:0] {
    LoadNothing,
    LoadSealed,
    LoadPlain,
    LoadTest
  } load_e;

  // The delay line wipes one place a clock; two clocks more for its read register.
  localparam logic [5:0] ClearClocks = 6'(drive_crypto_pkg::aes_latency(WordBytes) + 2);

  state_e state_q, state_d;
  load_e load_q, load_d;
  logic [5:0] clear_count_q, clear_count_d;
  logic clears, clear_ends;
  logic fault_q, plain_locked_q, unwrap_failed_q, load_refused_q, take_q, taken_q;
  logic [7:0] plain_written_q;
  logic zeroizes, replace, refused;
  logic unwrap_start, unwrap_done, unwrap_ok, unwrap_wrong, expand_done, expand_wrong;
  logic [255:0] unwrapped;

  assign refused = state_q == StUnwrap && unwrap_done && !unwrap_ok;

  // ---- Commands ------------------------------------------------------------------------------

  always_comb begin
    load_d  = load_q;
    replace = 1'b0;
    if (test_load_i) begin
      replace = 1'b1;
      load_d  = LoadTest;
    end else if (load_sealed_i && usable_i) begin
      replace = 1'b1;
      load_d  = LoadSealed;
    end else if (load_plain_i && usable_i && !plain_locked_q && !lock_plain_i &&
                 plain_written_q == '1) begin
      replace = 1'b1;
      load_d  = LoadPlain;
    end
    zeroizes = zeroize_i || test_zeroize_i || (fault_i && !fault_q) || refused;
    if (zeroizes) begin
      load_d = LoadNothing;
    end
  end

  logic plain_locked_d, unwrap_failed_d, load_refused_d;
  logic [7:0] plain_written_d;

  assign load_refused_d = load_sealed_i || load_plain_i ? !replace || test_load_i || zeroizes
                                                        : load_refused_q;
  assign plain_written_d = (entry_clear_o ? '0 : plain_written_q) | plain_written_i;

  assign unwrap_failed_d = refused | (unwrap_failed_q & ~replace);

  always_comb begin
    plain_locked_d = plain_locked_q;
    if (lock_plain_i) begin
      plain_locked_d = 1'b1;
    end
  end

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      load_q          <= LoadNothing;
      fault_q         <= 1'b0;
      plain_locked_q  <= 1'b0;
      unwrap_failed_q <= 1'b0;
      load_refused_q  <= 1'b0;
      plain_written_q <= '0;
      taken_q         <= 1'b0;
    end else begin
      load_q          <= load_d;
      fault_q         <= fault_i;
      plain_locked_q  <= plain_locked_d;
      unwrap_failed_q <= unwrap_failed_d;
      load_refused_q  <= load_refused_d;
      plain_written_q <= plain_written_d;
      taken_q         <= take_q;
    end
  end

  // ---- Steps ---------------------------------------------------------------------------------

  assign clears     = state_q == StClear;
  assign clear_ends = clear_count_q == ClearClocks && !wiping_i;

  always_comb begin
    state_d      = state_q;
    unwrap_start = 1'b0;
    unique case (state_q)
      StClear: begin
        if (clear_ends) begin
          unique case (load_q)
            LoadNothing: state_d = StEmpty;
            LoadPlain:   state_d = StTake;
            default: begin
              state_d      = StUnwrap;
              unwrap_start = 1'b1;
            end
          endcase
        end
      end
      StUnwrap: begin
        if (unwrap_done) begin
          state_d = StTake;
        end
      end
      StTake:   state_d = StExpand;
      StExpand: begin
        if (expand_done) begin
          state_d = StHash;
        end
      end
      StHash: begin
        if (turn_i) begin
          state_d = StPowers;
        end
      end
      StPowers: begin
        if (hash_ready_i) begin
          state_d = StValid;
        end
      end
      default:  state_d = state_q;
    endcase
    if (zeroizes || replace) begin
      state_d = StClear;
    end
  end

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      state_q       <= StClear;
      clear_count_q <= '0;
    end else begin
      state_q       <= state_d;
      clear_count_q <= clear_count_d;
    end
  end

  always_comb begin
    clear_count_d = clear_count_q;
    if (zeroizes || replace) begin
      clear_count_d = '0;
    end else if (clears && clear_count_q != ClearClocks) begin
      clear_count_d = clear_count_q + 6'd1;
    end
  end

  // ---- What follows the state, in registers: each of these wires moves hundreds of others ------

  logic [Clears-1:0] clear_q;
  logic expand_clear_q, clear_starts_q, unwrap_clear_q, unwrap_start_q;
  logic sealed_test_q, plain_q, hash_key_q, key_valid_q, key_loading_q;

  // Kept apart by synthesis, which would make one register of equal ones.
  for (genvar c = 0; c < Clears; c++) begin : gen_clear
    (* keep *)
    always_ff @(posedge clk_i or negedge rst_ni) begin
      if (!rst_ni) begin
        clear_q[c] <= 1'b1;
      end else begin
        clear_q[c] <= state_d == StClear;
      end
    end
  end

  (* keep *)
  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      expand_clear_q <= 1'b1;
    end else begin
      expand_clear_q <= state_d == StClear;
    end
  end

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      clear_starts_q <= 1'b1;
      unwrap_clear_q <= 1'b1;
      unwrap_start_q <= 1'b0;
      take_q         <= 1'b0;
      sealed_test_q  <= 1'b0;
      plain_q        <= 1'b0;
      hash_key_q     <= 1'b0;
      key_valid_q    <= 1'b0;
      key_loading_q  <= 1'b0;
    end else begin
      clear_starts_q <= zeroizes || replace;
      unwrap_clear_q <= zeroizes || replace ||
                        !(state_d == StClear || state_d == StUnwrap || state_d == StTake);
      unwrap_start_q <= unwrap_start;
      take_q         <= state_d == StTake;
      sealed_test_q  <= load_d == LoadTest;
      plain_q        <= load_d == LoadPlain;
      hash_key_q     <= state_d == StHash;
      key_valid_q    <= state_d == StValid;
      key_loading_q  <= load_d != LoadNothing && state_d != StValid;
    end
  end

  // ---- Unwrap and expand ---------------------------------------------------------------------

  // Round keys must not move while a block is in flight: they are cleared with the cipher.
  logic unwrap_busy, expand_busy, unused_busy;
  assign unused_busy = unwrap_busy ^ expand_busy;

  key_unwrap u_key_unwrap (
      .clk_i,
      .rst_ni,
      .clear_i(unwrap_clear_q),
      .start_i(unwrap_start_q),
      .kek_i  (sealed_test_q ? test_transport_key_i : transport_key_i),
      .blob_i (sealed_test_q ? test_sealed_key_i : sealed_key_i),
      .busy_o (unwrap_busy),
      .done_o (unwrap_done),
      .ok_o   (unwrap_ok),
      .wrong_o(unwrap_wrong),
      .key_o  (unwrapped)
  );

  aes_key_expand u_aes_key_expand (
      .clk_i,
      .rst_ni,
      .clear_i(expand_clear_q),
      .start_i(take_q),
      .key_i  (plain_q ? plain_key_i : unwrapped),
      .busy_o (expand_busy),
      .done_o (expand_done),
      .wrong_o(expand_wrong),
      .rk_o   (round_keys_o),
      .rk_parity_o(key_parities_o)
  );

  // ---- Twins -----------------------------------------------------------------------------------

  logic wrong_state, wrong_follows_q;

  control_twin #(
      .Width($bits(
          {
            state_q,
            load_q,
            clear_count_q,
            fault_q,
            plain_locked_q,
            unwrap_failed_q,
            load_refused_q,
            plain_written_q,
            taken_q
          }
      ))
  ) u_twin (
      .clk_i,
      .rst_ni,
      .next_i ({state_d, load_d, clear_count_d, fault_i, plain_locked_d, unwrap_failed_d,
                load_refused_d, plain_written_d, take_q}),
      .held_i ({state_q, load_q, clear_count_q, fault_q, plain_locked_q, unwrap_failed_q,
                load_refused_q, plain_written_q, taken_q}),
      .wrong_o(wrong_state)
  );

  // What follows the state says what the state says: no second copy is needed.
  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      wrong_follows_q <= 1'b0;
    end else begin
      wrong_follows_q <= clear_q != {Clears{clears}} || expand_clear_q != clears ||
                         take_q != (state_q == StTake) || hash_key_q != (state_q == StHash) ||
                         key_valid_q != (state_q == StValid) ||
                         key_loading_q != (load_q != LoadNothing && state_q != StValid);
    end
  end

  // ---- Outputs -------------------------------------------------------------------------------

  assign clear_o         = clear_q;
  assign wipe_o          = clear_starts_q;
  assign entry_clear_o   = taken_q || (clear_starts_q && load_q == LoadNothing);
  assign hash_key_o      = hash_key_q;
  assign key_valid_o     = key_valid_q;
  assign key_loading_o   = key_loading_q;
  assign plain_locked_o  = plain_locked_q;
  assign unwrap_failed_o = unwrap_failed_q;
  assign load_refused_o  = load_refused_q;
  assign wrong_o         = wrong_state | wrong_follows_q | unwrap_wrong | expand_wrong;

  // ---- Assertions, in the builds of the benches; ../formal proves more --------------------------

`ifdef RTL_ASSERTIONS
  a_no_key :
  assert property (@(posedge clk_i) disable iff (!rst_ni) clears |-> !key_valid_q);
  a_locked :
  assert property (@(posedge clk_i) disable iff (!rst_ni) plain_locked_q |=> plain_locked_q);
`endif

endmodule
