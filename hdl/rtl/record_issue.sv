// Issue stage: takes record frames, a word at each turn, and makes slots and counter blocks of them.
//
// SP 800-38D section 7, 96-bit IV: J0 = IV || 1 for the tag, IV || 2, 3, ... for the text.
// A refused frame is taken in whole, so that the next one is found, but makes no slot other than
// that of its end.
//
// in_last_i marks the last word of a frame. Where it does not come with the word that the header
// announced as the last, a word was lost or came twice: the record is torn. It ends with that mark,
// early or late, and the next word is a header again.
//
// Ports
//   clear_i      zeroize: the record being taken in is refused from here on
//   accept_i     a new record may begin
//   usable_i     the engine passed its self test and has no fault
//   key_valid_i  encrypt and decrypt are possible
//   turn_i       a slot may be made in this clock: one in as many clocks as a word takes
//   hash_key_i   send a zero block through the cipher (refused records only may be taken in)
//   in_*         record frames, in_last_i with the last word of each
//   free_i       the ledger can take a new record
//   room_i       the buffer has a place for a data word
//   pace_i       the pace limit lets a data word in
//   open_o       one clock, the next after its header was taken: a record begins; the header_*
//                outputs describe it
//   torn_o       one clock: the record being taken in ends, and is torn; torn_words_o of its data words
//                were let in
//   ended_o      one clock: its frame ends (its tag, or the gap after its data)
//   active_o     a record is being taken in
//   inside_o     the same, from the clock after open_o on; means nothing while hash_key_i is high
//   waiting_o    a record is offered and kept waiting
//   data_taken_o a data word of a record that is not refused was taken in a clock ago
//   starved_o    a word could be taken and none came
//   paced_o      nothing but the pace limit keeps a data word back
//   blocked_o    a word or a record waits for room
//   wrong_o      a register of control is not what it was set to
//   slot_*       slots, aes_*: counter blocks, both one clock after the word was taken
//
// Latency 1 clock, throughput one word a turn. A record takes one turn more for its end, beside its tag;
// its header takes a clock, which is one between turns where these are several clocks apart.

module record_issue #(
    parameter int unsigned BankBytes = 262144
) (
    input  logic                            clk_i,
    input  logic                            rst_ni,
    input  logic                            clear_i,
    input  logic                            accept_i,
    input  logic                            usable_i,
    input  logic                            key_valid_i,
    input  logic                            turn_i,
    input  logic                            hash_key_i,
    input  logic                            in_valid_i,
    output logic                            in_ready_o,
    input  logic                    [127:0] in_data_i,
    input  logic                            in_last_i,
    input  logic                            free_i,
    input  logic                            room_i,
    input  logic                            pace_i,
    output logic                            open_o,
    output logic                    [  7:0] header_status_o,
    output logic                    [  3:0] header_op_o,
    output logic                    [  7:0] header_aad_len_o,
    output logic                    [ 18:0] header_data_len_o,
    output logic                    [ 14:0] header_words_o,
    output logic                            torn_o,
    output logic                    [ 14:0] torn_words_o,
    output logic                            ended_o,
    output logic                            active_o,
    output logic                            inside_o,
    output logic                            waiting_o,
    output logic                            data_taken_o,
    output logic                            starved_o,
    output logic                            blocked_o,
    output logic                            paced_o,
    output logic                    [  2:0] slot_kind_o,
    output record_pkg::slot_t               slot_o,
    output logic                            aes_valid_o,
    output logic                    [127:0] aes_block_o,
    output logic                    [  1:0] aes_parity_o,
    output logic                            wrong_o
);

  typedef enum logic [2:0] {
    StHeader,
    StAad,
    StData,
    StEnd,
    StSkip  // to the last word of a frame that is longer than its header says
  } state_e;

  state_e state_q, state_d;

  // ---- Header: what it asks for --------------------------------------------------------------

  drive_crypto_pkg::record_header_t header;
  logic header_is_gcm, header_is_bypass, header_is_decrypt;
  logic header_bad, header_has_aad, header_has_data;

  assign header = in_data_i;
  assign header_is_decrypt = header.op == drive_crypto_pkg::OpDecrypt;
  assign header_is_gcm = header.op == drive_crypto_pkg::OpEncrypt || header_is_decrypt;
  assign header_is_bypass = header.op == drive_crypto_pkg::OpBypass;
  assign header_has_aad = header.aad_len != 8'd0;
  assign header_has_data = header.data_len != 19'd0;
  assign header_bad = !(header_is_gcm || header_is_bypass) || header.rsvd ||
                      header.aad_len > 8'(drive_crypto_pkg::MaxAadBytes) ||
                      header.data_len > 19'(BankBytes) ||
                      (header_is_bypass && (header_has_aad || !header_has_data));

  logic [4:0] header_aad_words;
  logic header_one_word;  // of data

  assign header_aad_words = 5'(header.aad_len[7:4]) + 5'(|header.aad_len[3:0]);
  assign header_one_word = header.data_len[18:5] == '0 &&
                           header.data_len[4] != (|header.data_len[3:0]);

  // ---- The record being taken in -------------------------------------------------------------

  // What the header said, in one register.
  logic [3:0] op_q, op_d;
  logic [7:0] aad_len_q, aad_len_d;
  logic [18:0] data_len_q, data_len_d;
  logic bad_q, is_gcm_q, has_data_q, bad_d, is_gcm_d, has_data_d;
  logic is_decrypt_q, is_decrypt_d;  // and its tag is still to come
  logic last_aad_q, last_data_q, last_aad_d, last_data_d;  // one word of them is left
  localparam int unsigned SaidBits = $bits(
      {
        op_q,
        aad_len_q,
        data_len_q,
        bad_q,
        is_gcm_q,
        is_decrypt_q,
        has_data_q,
        last_aad_q,
        last_data_q
      }
  );
  logic [SaidBits-1:0] said_q, said_d;

  assign {op_q, aad_len_q, data_len_q, bad_q, is_gcm_q, is_decrypt_q, has_data_q, last_aad_q,
          last_data_q} = said_q;
  assign said_d = {
    op_d, aad_len_d, data_len_d, bad_d, is_gcm_d, is_decrypt_d, has_data_d, last_aad_d, last_data_d
  };

  logic refused_q, refused_d, first_q, first_d, torn_q, torn_d;
  logic fresh_q, fresh_d;  // its header was taken one clock ago
  logic [95:0] iv_q;
  logic [1:0] iv_parity_q;
  logic [4:0] aad_words_q, aad_words_d;  // left to take
  logic [15:0] data_words_q, data_words_d;  // left to take, without one that is not whole
  logic part_word;  // of data, the last, is not whole
  logic [31:0] block_q, block_d;  // counter of the next data word
  logic refused, take, in_header, in_aad, in_data, in_end, in_skip;

  assign in_header = state_q == StHeader;
  assign in_skip = state_q == StSkip;
  assign in_aad = state_q == StAad;
  assign in_data = state_q == StData;
  assign in_end = state_q == StEnd;

  assign part_word = data_len_q[3:0] != '0;

  // Whether it is refused, a clock after its header.
  logic [7:0] status;

  always_comb begin
    if (!usable_i) begin
      status = drive_crypto_pkg::StatusNotReady;
    end else if (bad_q) begin
      status = drive_crypto_pkg::StatusBadFrame;
    end else if (is_gcm_q && !key_valid_i) begin
      status = drive_crypto_pkg::StatusNoKey;
    end else begin
      status = drive_crypto_pkg::StatusOk;
    end
  end

  logic refused_now;
  assign refused_now = fresh_q ? !usable_i || bad_q || (is_gcm_q && !key_valid_i) : refused_q;
  assign refused = refused_now | clear_i;

  // A record ends when it is known whether it is refused, and nothing else needs the slot.
  logic ends;
  assign ends = turn_i & ~hash_key_i & ~fresh_q;

  always_comb begin
    unique case (state_q)
      StHeader: in_ready_o = accept_i & free_i;
      StAad:    in_ready_o = turn_i;
      StData:   in_ready_o = turn_i & (refused_q | clear_i | (room_i & pace_i));
      StEnd:    in_ready_o = is_decrypt_q & ends;
      StSkip:   in_ready_o = 1'b1;
      default:  in_ready_o = 1'b0;
    endcase
  end

  assign take = in_valid_i & in_ready_o;

  logic end_taken, end_done;
  assign end_taken = in_end & ((in_valid_i & in_last_i) | ~is_decrypt_q);
  assign end_done  = end_taken & ends;

  // Whether the word at the input is the last one by the header, and where the next one belongs.
  logic due_last;
  state_e goes_to;

  always_comb begin
    due_last = 1'b0;
    goes_to  = state_q;
    unique case (state_q)
      StHeader: begin
        due_last = ~header_has_aad & ~header_has_data & ~header_is_decrypt;
        goes_to  = header_has_aad ? StAad : header_has_data ? StData : StEnd;
      end
      StAad: begin
        due_last = last_aad_q & ~has_data_q & ~is_decrypt_q;
        goes_to  = !last_aad_q ? StAad : has_data_q ? StData : StEnd;
      end
      StData: begin
        due_last = last_data_q & ~is_decrypt_q;
        goes_to  = last_data_q ? StEnd : StData;
      end
      StEnd:   due_last = 1'b1;
      default: goes_to = state_q;
    endcase
    if (in_last_i) begin
      goes_to = StEnd;
    end else if (due_last) begin
      goes_to = StSkip;
    end
  end

  always_comb begin
    state_d = state_q;
    if (end_done) begin
      state_d = StHeader;
    end else if (take) begin
      state_d = goes_to;
    end
    if (state_q > StSkip) begin
      state_d = StHeader;
    end
  end

  assign torn_d = (torn_q & ~in_header) | (take & ~in_skip & (in_last_i != due_last));

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      state_q   <= StHeader;
      fresh_q   <= 1'b0;
      refused_q <= 1'b0;
      first_q   <= 1'b0;
      torn_q    <= 1'b0;
    end else begin
      torn_q    <= torn_d;
      state_q   <= state_d;
      fresh_q   <= fresh_d;
      refused_q <= refused_d;
      first_q   <= first_d;
    end
  end

  // As take says, but without what only the other states wait for.
  assign fresh_d = in_header & in_valid_i & accept_i & free_i;
  assign refused_d = refused & ~in_header;
  assign first_d = in_header | (first_q & ~(take & (in_aad | in_data)));

  // Lengths and what they say: of no use before a header was taken, so without a reset.
  always_comb begin
    {op_d, aad_len_d, data_len_d, bad_d, is_gcm_d, is_decrypt_d, has_data_d, last_aad_d,
     last_data_d} = said_q;
    aad_words_d  = aad_words_q;
    data_words_d = data_words_q;
    block_d      = block_q;
    if (in_header) begin
      // Whether it is taken or not: nothing asks before one was.
      op_d         = header.op;
      aad_len_d    = header.aad_len;
      data_len_d   = header.data_len;
      bad_d        = header_bad;
      is_gcm_d     = header_is_gcm;
      is_decrypt_d = header_is_decrypt;
      has_data_d   = header_has_data;
      last_aad_d   = header_aad_words == 5'd1;
      last_data_d  = header_one_word;
      aad_words_d  = header_aad_words;
      data_words_d = 16'(header.data_len[18:4]);
      block_d      = 32'd2;
    end else if (take) begin
      if (in_aad) begin
        aad_words_d     = aad_words_q - 5'd1;
        last_aad_d      = aad_words_q == 5'd2;
      end
      if (in_data) begin
        data_words_d     = data_words_q - 16'd1;
        last_data_d      = data_words_q == (part_word ? 16'd1 : 16'd2);
        block_d          = block_q + 32'd1;
      end
    end
    if (torn_d) begin
      is_decrypt_d = 1'b0;
    end
  end

  always_ff @(posedge clk_i) begin
    said_q       <= said_d;
    aad_words_q  <= aad_words_d;
    data_words_q <= data_words_d;
    block_q      <= block_d;
  end

  always_ff @(posedge clk_i) begin
    if (clear_i) begin
      iv_q        <= '0;
      iv_parity_q <= '0;
    end else if (fresh_d) begin
      iv_q        <= header.iv;
      iv_parity_q <= aes_pkg::block_parity({header.iv, 32'd0});
    end else if (refused_q) begin
      iv_q        <= '0;
      iv_parity_q <= '0;
    end
  end

  // ---- Slots ---------------------------------------------------------------------------------

  logic [2:0] kind_d, kind_q;
  logic data_d, data_q;  // it is of data
  record_pkg::slot_t slot_q;
  logic [3:0] bytes;  // of the word that may be taken, 0 means 16
  logic [127:0] mask;
  logic aes_valid_d, aes_valid_q;
  logic [127:0] aes_block_q;
  logic [1:0] aes_parity_q;
  logic [31:0] counter;

  assign counter = in_end ? 32'd1 : block_q;

  // Which slot is made. Each from what it needs and no more: room_i comes late, and says nothing but
  // whether a data word is taken.
  logic goes, goes_aad, goes_data, goes_end, goes_refused, goes_hash_key;

  assign goes          = turn_i & in_valid_i & ~refused & ~hash_key_i;
  assign goes_aad      = in_aad & goes;
  assign goes_data     = in_data & goes & room_i & pace_i;
  assign goes_end      = end_done & ~refused_q & ~clear_i;
  assign goes_refused  = end_done & refused_q & ~clear_i;
  assign goes_hash_key = turn_i & hash_key_i & ~clear_i;

  // No two at once.
  assign kind_d = (goes_aad ? record_pkg::SlotAad : record_pkg::SlotNone) |
                  (goes_data ? record_pkg::SlotData : record_pkg::SlotNone) |
                  (goes_end ? record_pkg::SlotEnd : record_pkg::SlotNone) |
                  (goes_refused ? record_pkg::SlotRefused : record_pkg::SlotNone) |
                  (goes_hash_key ? record_pkg::SlotHashKey : record_pkg::SlotNone);

  always_comb begin
    bytes = 4'd0;
    if (in_aad && last_aad_q) begin
      bytes = aad_len_q[3:0];
    end else if (in_data && last_data_q) begin
      bytes = data_len_q[3:0];
    end
  end

  assign mask = record_pkg::byte_mask(bytes);

  assign data_d = goes_data;
  assign aes_valid_d = goes_hash_key | (is_gcm_q & (goes_data | goes_end));

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      kind_q      <= record_pkg::SlotNone;
      data_q      <= 1'b0;
      aes_valid_q <= 1'b0;
    end else begin
      kind_q      <= kind_d;
      data_q      <= data_d;
      aes_valid_q <= aes_valid_d;
    end
  end

  // What a slot holds matters only with its kind, which comes late: so it is taken in any case, but
  // of a record that is refused for no longer than a clock.
  logic drops;
  assign drops = clear_i | hash_key_i | in_header | refused_q;

  always_ff @(posedge clk_i) begin
    if (drops) begin
      slot_q <= '0;
    end else begin
      slot_q.check  <= ^{first_q, bytes};
      slot_q.parity <= in_end && !is_decrypt_q ? '0 :
                       record_pkg::masked_parity(in_data_i, mask);
      slot_q.first  <= first_q;
      slot_q.bytes  <= bytes;
      slot_q.data   <= in_end && !is_decrypt_q ? '0 : in_data_i & mask;
    end
  end

  always_ff @(posedge clk_i) begin
    if (drops) begin
      aes_block_q  <= '0;
      aes_parity_q <= '0;
    end else begin
      aes_block_q  <= {iv_q, counter};
      aes_parity_q <= iv_parity_q ^ aes_pkg::row_parity(counter);
    end
  end

  // ---- Twins -----------------------------------------------------------------------------------

  logic wrong_said, wrong_counts;

  control_twin #(
      .Width($bits(
          {state_q, fresh_q, refused_q, first_q, torn_q, kind_q, data_q, aes_valid_q, said_q}
      ))
  ) u_twin_said (
      .clk_i,
      .rst_ni,
      .next_i ({state_d, fresh_d, refused_d, first_d, torn_d, kind_d, data_d, aes_valid_d,
                said_d}),
      .held_i ({state_q, fresh_q, refused_q, first_q, torn_q, kind_q, data_q, aes_valid_q,
                said_q}),
      .wrong_o(wrong_said)
  );

  control_twin #(
      .Width($bits({aad_words_q, data_words_q, block_q}))
  ) u_twin_counts (
      .clk_i,
      .rst_ni,
      .next_i ({aad_words_d, data_words_d, block_d}),
      .held_i ({aad_words_q, data_words_q, block_q}),
      .wrong_o(wrong_counts)
  );

  // ---- Outputs -------------------------------------------------------------------------------

  assign wrong_o           = wrong_said | wrong_counts;
  assign open_o            = fresh_q;
  assign header_status_o   = status;
  assign header_op_o       = op_q;
  assign header_aad_len_o  = aad_len_q;
  assign header_data_len_o = data_len_q;
  assign header_words_o    = data_words_q[14:0] + 15'(part_word);
  assign torn_o            = end_done & torn_q & ~refused_q & ~clear_i;
  assign torn_words_o      = 15'(data_len_q[18:4]) - data_words_q[14:0];
  assign ended_o           = end_done;
  assign active_o          = ~in_header;
  assign inside_o          = ~in_header & ~fresh_q & ~(end_taken & turn_i);
  assign waiting_o         = in_header & in_valid_i;
  assign data_taken_o      = data_q;
  assign starved_o         = active_o & in_ready_o & ~in_valid_i;
  assign blocked_o         = in_valid_i & ((in_header & accept_i & ~free_i) |
                                           (in_data & ~refused & ~room_i));
  assign paced_o           = in_data & ~refused & room_i & ~pace_i;
  assign slot_kind_o       = kind_q;
  assign slot_o            = slot_q;
  assign aes_valid_o       = aes_valid_q;
  assign aes_block_o       = aes_block_q;
  assign aes_parity_o      = aes_parity_q;

  // ---- Assertions, in the builds of the benches; ../formal proves more --------------------------

`ifdef RTL_ASSERTIONS
  a_one_slot :
  assert property (@(posedge clk_i) disable iff (!rst_ni) $onehot0(
      {goes_aad, goes_data, goes_end, goes_refused, goes_hash_key}
  ));
  a_legal :
  assert property (@(posedge clk_i) disable iff (!rst_ni) state_q <= StSkip);
`endif

endmodule
