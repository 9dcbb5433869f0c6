// Power-on self test: known answers through the same keys, cipher, GHASH and buffer as any record.
//
// After the zeroize that follows reset, in this order:
//   1. a sealed key with one bit wrong must be refused;
//   2. the sealed key of RFC 3394 section 4.6 must load;
//   3. a record of 57 bytes with 29 bytes of AAD must encrypt to the known text and tag;
//   4. the same must decrypt;  5. with one bit of the tag wrong, nothing but the refusal may leave;
//   6. the key must be gone after zeroize.
// The answers of 3 to 5 were made with OpenSSL. Anything else, or silence, is a failure for good.
//
// Ports
//   active_o    the test has the engine: its streams and its key commands count, no others
//   done_o, ok_o   it ended, and well;  broken_o  it will not end well
//   step_o      the step, of those above, at which it broke; 0 before, and when it ended well
//   zeroizing_i, key_valid_i, unwrap_failed_i   state of the keys
//   load_o, zeroize_o   key commands;  sealed_key_o, transport_key_o   go with load_o, steady
//   in_*, out_* the record streams of the engine
//   wrong_o     a register of control is not what it was set to
//
// All outputs are registers, and an answer is judged two clocks after it came: nothing here is fast.
//
// Latency about 1,000 clocks after the first zeroize, when all is well.

module self_test (
    input  logic         clk_i,
    input  logic         rst_ni,
    output logic         active_o,
    output logic         done_o,
    output logic         ok_o,
    output logic         broken_o,
    output logic [  2:0] step_o,
    input  logic         zeroizing_i,
    input  logic         key_valid_i,
    input  logic         unwrap_failed_i,
    output logic         load_o,
    output logic         zeroize_o,
    output logic [319:0] sealed_key_o,
    output logic [255:0] transport_key_o,
    output logic         in_valid_o,
    input  logic         in_ready_i,
    output logic [127:0] in_data_o,
    output logic         in_last_o,
    input  logic         out_valid_i,
    output logic         out_ready_o,
    input  logic [127:0] out_data_i,
    input  logic         out_last_i,
    output logic         wrong_o
);

  localparam logic [255:0] TransportKey =
      256'h000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F;
  localparam logic [319:0] SealedKey =
      320'h28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21;
  localparam logic [319:0] OneBit = 320'd1 << 137;

  // Data of header words: AAD length, reserved bit, data length, then the IV.
  localparam logic [26:0] Lengths = {8'd29, 19'd57};
  localparam logic [95:0] Iv = 96'h546170657269672073656c66;

  // Word i is bits [128 * i +: 128].
  localparam logic [255:0] Aad = {
    128'h39206279746573206c6f6e672e000000, 128'h706f7765722d6f6e20746573742c2032
  };
  localparam logic [511:0] Clear = {
    128'h372062797465732e2e00000000000000,
    128'h666f726520697420776f726b733a2035,
    128'h68616c6c2070726f7665206974206265,
    128'h54686520746170652064726976652073
  };
  localparam logic [511:0] Cipher = {
    128'hef2b3790a0819680fc00000000000000,
    128'h6400cf04bf41ccd215a94b3bba1e5e95,
    128'h14184ef069eeca0c75397441337d20e9,
    128'h70811499245c50645701e841654a2072
  };
  localparam logic [127:0] Tag = 128'h55148b5d2989578514c85218cbf78a31;

  typedef enum logic [3:0] {
    StPowerOn,  // waits for the first zeroize
    StBadKey,  // gives the command to load the wrong sealed key
    StBadKeyWait,
    StKey,
    StKeyWait,
    StEncrypt,
    StDecrypt,
    StReject,
    StZeroize,
    StZeroizeWait,
    StPassed,
    StBroken,  // swallows what a broken engine still sends, until it has zeroized
    StFailed
  } state_e;

  // More than the output stage takes to close a frame that zeroize cut.
  localparam logic [13:0] DrainClocks = 14'd64;

  state_e state_q, state_d;
  logic [3:0] sent_q, seen_q, sent_d, seen_d;  // words of the frame in, of the frame out
  logic [13:0] silence_q;  // clocks since something happened
  logic in_frame, encrypts, frame_ends, wrong, silent, sends;

  // Flags, in one register that a twin watches.
  logic in_valid_q, in_last_q, sees_q, looks_q, active_q, ok_q, broken_q;
  logic encrypts_q, rejects_q, in_frame_q, in_valid_d, in_last_d;
  localparam int unsigned FlagBits = $bits(
      {
        in_valid_q,
        in_last_q,
        sees_q,
        looks_q,
        active_q,
        ok_q,
        broken_q,
        encrypts_q,
        rejects_q,
        in_frame_q
      }
  );
  logic [FlagBits-1:0] flags_q, flags_d;

  assign {in_valid_q, in_last_q, sees_q, looks_q, active_q, ok_q, broken_q, encrypts_q, rejects_q,
          in_frame_q} = flags_q;
  assign encrypts = encrypts_q;
  assign in_frame = in_frame_q;

  // ---- Frames in -----------------------------------------------------------------------------

  // Words: header, 2 of AAD, 4 of data, and on decrypt the tag. In functions, so that the simulation
  // makes a word only when it is wanted.
  logic [3:0] frame_words;
  assign frame_words = encrypts ? 4'd7 : 4'd8;

  function automatic logic [127:0] text_word(input logic cipher, input logic [1:0] place);
    text_word = cipher ? Cipher[128*place+:128] : Clear[128*place+:128];
  endfunction

  function automatic logic [127:0] in_word(input logic [3:0] place, input logic encrypt,
                                           input logic reject);
    unique case (place)
      4'd0: begin
        in_word = {
          encrypt ? drive_crypto_pkg::OpEncrypt : drive_crypto_pkg::OpDecrypt,
          Lengths[26:19],
          1'b0,
          Lengths[18:0],
          Iv
        };
      end
      4'd1, 4'd2: in_word = Aad[128*place[1]+:128];
      4'd7:    in_word = Tag ^ 128'(reject);
      default: in_word = text_word(~encrypt, 2'(place - 4'd3));
    endcase
  endfunction

  logic [127:0] in_data_q;

  assign in_valid_o = in_valid_q;
  assign in_data_o = in_data_q;
  assign in_last_o = in_last_q;

  // ---- Frames out ----------------------------------------------------------------------------

  // Words: header; unless rejected 4 of data; on encrypt the tag.
  logic wanted_last;

  assign wanted_last = seen_q == 4'd0 ? rejects_q : seen_q == (encrypts ? 4'd5 : 4'd4);

  function automatic logic [127:0] out_word(input logic [3:0] place, input logic encrypt,
                                            input logic reject);
    unique case (place)
      4'd0: begin
        out_word = {
          reject ? drive_crypto_pkg::StatusTagMismatch : drive_crypto_pkg::StatusOk,
          encrypt ? drive_crypto_pkg::OpEncrypt : drive_crypto_pkg::OpDecrypt,
          1'b0,
          Lengths[18:0],
          96'd0
        };
      end
      4'd5:    out_word = Tag;
      default: out_word = text_word(encrypt, 2'(place - 4'd1));
    endcase
  endfunction

  function automatic logic [7:0] differences(input logic [127:0] word, input logic [127:0] wanted);
    for (int b = 0; b < 8; b++) begin
      differences[b] = word[16*b+:16] != wanted[16*b+:16];
    end
  endfunction

  // A word comes into a register, is compared in eight pieces, and then counts.
  logic [127:0] seen_data_q;
  logic seen_last_q, wanted_last_q, last_differs_q;
  logic [7:0] differs_q;

  assign out_ready_o = 1'b1;
  assign wrong       = looks_q && (differs_q != '0 || last_differs_q);
  assign frame_ends  = looks_q && wanted_last_q;

  // ---- Steps ---------------------------------------------------------------------------------

  assign silent = &silence_q;

  always_comb begin
    state_d = state_q;
    unique case (state_q)
      StPowerOn: begin
        if (!zeroizing_i) begin
          state_d = StBadKey;
        end
      end
      StBadKey: state_d = StBadKeyWait;
      StBadKeyWait: begin
        if (key_valid_i) begin
          state_d = StBroken;
        end else if (unwrap_failed_i && !zeroizing_i) begin
          state_d = StKey;
        end
      end
      StKey: state_d = StKeyWait;
      StKeyWait: begin
        if (unwrap_failed_i && !zeroizing_i) begin
          state_d = StBroken;
        end else if (key_valid_i) begin
          state_d = StEncrypt;
        end
      end
      StEncrypt: begin
        if (frame_ends) begin
          state_d = StDecrypt;
        end
      end
      StDecrypt: begin
        if (frame_ends) begin
          state_d = StReject;
        end
      end
      StReject: begin
        if (frame_ends) begin
          state_d = StZeroize;
        end
      end
      StZeroize: state_d = StZeroizeWait;
      StZeroizeWait: begin
        if (!zeroizing_i) begin
          state_d = key_valid_i ? StBroken : StPassed;
        end
      end
      StBroken: begin
        if (silence_q == DrainClocks) begin
          state_d = StFailed;
        end
      end
      default: state_d = state_q;
    endcase
    if (state_q != StBroken && active_q && (wrong || silent)) begin
      state_d = StBroken;
    end
  end

  // The step is kept when it breaks, for whoever reads the status.
  logic [2:0] step_q, step_d;

  always_comb begin
    step_d = step_q;
    if (state_d == StBroken && state_q != StBroken) begin
      unique case (state_q)
        StPowerOn, StBadKey, StBadKeyWait: step_d = 3'd1;
        StKey, StKeyWait:                  step_d = 3'd2;
        StEncrypt:                         step_d = 3'd3;
        StDecrypt:                         step_d = 3'd4;
        StReject:                          step_d = 3'd5;
        default:                           step_d = 3'd6;
      endcase
    end
  end

  // What goes in: a register that takes its next word the clock after its own was taken, so that nothing
  // here but its valid bit waits for the engine.
  assign sends = in_frame && !in_valid_q;

  always_comb begin
    sent_d     = sent_q;
    seen_d     = seen_q;
    in_valid_d = in_valid_q;
    in_last_d  = in_last_q;
    if (state_q != state_d) begin
      sent_d     = '0;
      seen_d     = '0;
      in_valid_d = 1'b0;
    end else begin
      if (in_valid_q) begin
        in_valid_d = ~in_ready_i;
      end else if (sends) begin
        in_valid_d = sent_q != frame_words;
        in_last_d  = sent_q == frame_words - 4'd1;
      end
      if (sends && sent_q != frame_words) begin
        sent_d = sent_q + 4'd1;
      end
      if (sees_q) begin
        seen_d = seen_q + 4'd1;
      end
    end
    flags_d = {
      in_valid_d,
      in_last_d,
      in_frame && out_valid_i,
      in_frame && sees_q,
      state_d != StPassed && state_d != StFailed,
      state_d == StPassed,
      state_d == StBroken || state_d == StFailed,
      state_d == StEncrypt,
      state_d == StReject,
      state_d == StEncrypt || state_d == StDecrypt || state_d == StReject
    };
  end

  // At reset all flags are low but that the test has the engine.
  localparam logic [FlagBits-1:0] FlagsAtReset = FlagBits'(1) << 5;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      state_q   <= StPowerOn;
      sent_q    <= '0;
      seen_q    <= '0;
      silence_q <= '0;
      step_q    <= '0;
      flags_q   <= FlagsAtReset;
    end else begin
      state_q <= state_d;
      sent_q  <= sent_d;
      seen_q  <= seen_d;
      step_q  <= step_d;
      flags_q <= flags_d;
      if (state_q != state_d || zeroizing_i || !active_o) begin
        silence_q <= '0;
      end else begin
        silence_q <= silence_q + 14'd1;
      end
    end
  end

  // A flipped bit of the state could pass the test unnoticed.
  control_twin #(
      .Width($bits({state_q, sent_q, seen_q, step_q, flags_q}))
  ) u_twin (
      .clk_i,
      .rst_ni,
      .next_i ({state_d, sent_d, seen_d, step_d, flags_d}),
      .held_i ({state_q, sent_q, seen_q, step_q, flags_q}),
      .wrong_o
  );

  always_ff @(posedge clk_i) begin
    if (sends) begin
      in_data_q <= in_word(sent_q, encrypts, rejects_q);
    end
    if (in_frame && out_valid_i) begin
      seen_data_q <= out_data_i;
      seen_last_q <= out_last_i;
    end
    if (sees_q) begin
      differs_q      <= differences(seen_data_q, out_word(seen_q, encrypts, rejects_q));
      last_differs_q <= seen_last_q != wanted_last;
      wanted_last_q  <= wanted_last;
    end
  end

  assign done_o          = ~active_q;
  assign ok_o            = ok_q;
  assign broken_o        = broken_q;
  assign step_o          = step_q;
  assign active_o        = active_q;
  assign load_o          = state_q == StBadKey || state_q == StKey;
  assign zeroize_o       = state_q == StZeroize;
  assign sealed_key_o    = state_q == StBadKey || state_q == StBadKeyWait ? SealedKey ^ OneBit
                                                                           : SealedKey;
  assign transport_key_o = TransportKey;

endmodule
