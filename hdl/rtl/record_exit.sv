// Exit stage: slots meet their keystream, text goes to the buffer, and GHASH is fed.
//
// SP 800-38D section 7: GHASH takes AAD, ciphertext and the block of the two lengths in bits; the
// tag is its digest summed with E(J0). What is handed on for the tag is therefore E(J0) on
// encrypt, and E(J0) summed with the expected tag on decrypt, so that the later sum with the
// digest is the tag, or zero.
//
// Ports
//   clear_i       zeroize: drops and zeroes what is here
//   kind_i, slot_i      the slot, and keystream_i its encrypted counter block
//   gcm_i, decrypt_i, aad_len_i, data_len_i   the record it is of
//   last_o        it is the last of its record
//   write_*_o     text out, to the buffer; its parities are those that came with the slot, and the
//                 keystream's, whose own is checked in aes_pipe
//   hash_*_o      to GHASH; hash_count_o goes with hash_first_o
//   hash_key_*_o  to GHASH
//   end_*_o       a record is through. With end_gcm_o a digest follows, and end_seed_o is the tag
//                 but for it
//   wrong_o       a register of control is not what it was set to, or first and bytes of a slot are
//                 not what they were
//
// Latency 1 clock, throughput one slot a clock.

module record_exit (
    input  logic                           clk_i,
    input  logic                           rst_ni,
    input  logic                           clear_i,
    input  logic                   [  2:0] kind_i,
    input  record_pkg::slot_t              slot_i,
    input  logic                   [127:0] keystream_i,
    input  logic                           gcm_i,
    input  logic                           decrypt_i,
    input  logic                   [  7:0] aad_len_i,
    input  logic                   [ 18:0] data_len_i,
    output logic                           last_o,
    output logic                           write_valid_o,
    output logic                   [127:0] write_data_o,
    output logic                   [  3:0] write_parity_o,
    output logic                           hash_valid_o,
    output logic                   [127:0] hash_block_o,
    output logic                   [ 17:0] hash_count_o,
    output logic                           hash_first_o,
    output logic                           hash_last_o,
    output logic                           hash_key_valid_o,
    output logic                   [127:0] hash_key_o,
    output logic                           end_valid_o,
    output logic                           end_gcm_o,
    output logic                           end_decrypt_o,
    output logic                   [127:0] end_seed_o,
    output logic                           wrong_o
);

  logic is_aad, is_data, is_end, is_refused, is_hash_key;

  assign is_aad = kind_i == record_pkg::SlotAad;
  assign is_data = kind_i == record_pkg::SlotData;
  assign is_end = kind_i == record_pkg::SlotEnd;
  assign is_refused = kind_i == record_pkg::SlotRefused;
  assign is_hash_key = kind_i == record_pkg::SlotHashKey;

  logic [127:0] summed, mask, text, lengths, hashed;
  logic [3:0] parity;
  logic [17:0] count;

  assign summed = slot_i.data ^ (gcm_i || is_hash_key ? keystream_i : 128'd0);
  assign mask = record_pkg::byte_mask(slot_i.bytes);
  assign text = summed & mask;
  assign parity = slot_i.parity ^
      (gcm_i || is_hash_key ? record_pkg::masked_parity(keystream_i, mask) : 4'd0);
  assign lengths = {53'd0, aad_len_i, 3'd0, 42'd0, data_len_i, 3'd0};
  assign count = 18'(aad_len_i[7:4]) + 18'(|aad_len_i[3:0]) +
                 18'(data_len_i[18:4]) + 18'(|data_len_i[3:0]) + 18'd1;

  always_comb begin
    unique case (1'b1)
      is_end:             hashed = lengths;
      is_data & ~decrypt_i: hashed = text;
      default:            hashed = slot_i.data;
    endcase
  end

  // Data has no asynchronous reset: clear_i comes with it.
  // The text register serves the buffer, the tag and the hash key: one of them at a time.
  logic write_q, hash_q, hash_first_q, hash_last_q, end_q, decrypt_q, hash_key_q;
  logic [127:0] text_q, hashed_q;
  logic [3:0] parity_q;
  logic [17:0] count_q, count_d;

  logic hash_first_d, decrypt_d, wrong_control, wrong_slot_q;
  logic [4:0] flags_d, flags_q;

  assign flags_d = clear_i ? '0 : {is_data, gcm_i & (is_aad | is_data | is_end), gcm_i & is_end,
                                   last_o, is_hash_key};
  assign {write_q, hash_q, hash_last_q, end_q, hash_key_q} = flags_q;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      flags_q      <= '0;
      wrong_slot_q <= 1'b0;
    end else begin
      flags_q      <= flags_d;
      wrong_slot_q <= (is_aad | is_data | is_end) & (^{slot_i.check, slot_i.first, slot_i.bytes});
    end
  end

  always_comb begin
    hash_first_d = hash_first_q;
    decrypt_d    = decrypt_q;
    count_d      = count_q;
    if (clear_i) begin
      hash_first_d = 1'b0;
      decrypt_d    = 1'b0;
      count_d      = '0;
    end else if (is_aad || is_data || is_end) begin
      hash_first_d = slot_i.first;
      decrypt_d    = decrypt_i;
      count_d      = count;
    end
  end

  always_ff @(posedge clk_i) begin
    hash_first_q <= hash_first_d;
    decrypt_q    <= decrypt_d;
    count_q      <= count_d;
  end

  always_ff @(posedge clk_i) begin
    if (clear_i) begin
      text_q   <= '0;
      parity_q <= '0;
      hashed_q <= '0;
    end else begin
      if (is_data || is_end || is_hash_key) begin
        text_q   <= text;
        parity_q <= parity;
      end
      if (is_aad || is_data || is_end) begin
        hashed_q <= hashed;
      end
    end
  end

  control_twin #(
      .Width($bits({flags_q, hash_first_q, decrypt_q, count_q}))
  ) u_twin (
      .clk_i,
      .rst_ni,
      .next_i ({flags_d, hash_first_d, decrypt_d, count_d}),
      .held_i ({flags_q, hash_first_q, decrypt_q, count_q}),
      .wrong_o(wrong_control)
  );

  assign last_o           = is_end | is_refused;
  assign write_valid_o    = write_q;
  assign write_data_o     = text_q;
  assign write_parity_o   = parity_q;
  assign wrong_o          = wrong_control | wrong_slot_q;
  assign hash_valid_o     = hash_q;
  assign hash_block_o     = hashed_q;
  assign hash_count_o     = count_q;
  assign hash_first_o     = hash_first_q;
  assign hash_last_o      = hash_last_q;
  assign hash_key_valid_o = hash_key_q;
  assign hash_key_o       = text_q;
  assign end_valid_o      = end_q;
  assign end_gcm_o        = hash_last_q;
  assign end_decrypt_o    = decrypt_q;
  assign end_seed_o       = text_q;

endmodule
