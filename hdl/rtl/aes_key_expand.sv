// AES-256 key expansion, one word every two clocks, into a register that shows all round keys.
//
// FIPS 197 section 5.2, Nk = 8. The schedule is a shift register of 60 words: each new word enters
// at the top, so after 52 of them word i stands at place i. Every word takes the same two clocks
// whether or not it needs the S-box: the time reveals nothing. It is held as the rounds want it, row
// by row, which is nothing to gates and saves the simulation turning 15 keys at every clock.
//
// Ports
//   clear_i    stops and zeroes everything, key included, at one edge
//   start_i    takes key_i (byte 0 in [255:248]); restarts when busy
//   busy_o     rk_o is not a key schedule yet
//   done_o     one clock: rk_o is complete, and stays
//   rk_o       round keys, [0] is used first, each as aes_pkg::to_rows has it
//   rk_parity_o   a clock later, aes_pkg::block_parity of each, carried on from that of key_i beside the words: a
//                 bit that flipped in a word since is not in it
//   wrong_o    a register of control is not what it was set to
//
// Latency 105 clocks from start_i to done_o, throughput one key at a time.

module aes_key_expand (
    input  logic                                        clk_i,
    input  logic                                        rst_ni,
    input  logic                                        clear_i,
    input  logic                                        start_i,
    input  logic [                        255:0]        key_i,
    output logic                                        busy_o,
    output logic                                        done_o,
    output logic [drive_crypto_pkg::AesRounds:0][127:0] rk_o,
    output logic [drive_crypto_pkg::AesRounds:0][  1:0] rk_parity_o,
    output logic                                        wrong_o
);

  localparam int unsigned Words = 60;
  localparam int unsigned KeyWords = 8;
  localparam logic [5:0] LastWord = Words[5:0] - 6'd1;

  localparam int unsigned Last = drive_crypto_pkg::AesRounds;

  logic [Last:0][127:0] rows_q;
  logic [KeyWords-1:0][1:0] parity_q;  // of each of the last words, even rows and odd
  logic [Last:0][1:0] sums_q;  // of these, over the four words of a round key
  logic [1:0] part_q;  // over the words of the round key being made
  logic [5:0] index_q, index_d;  // of the word being made
  logic [7:0] rcon_q, rcon_d;
  logic busy_q, combine_q, done_q, busy_d, combine_d, done_d, wipe_q, wipe;

  assign wipe = clear_i | wipe_q;

  // First clock of a word: look up the previous word's bytes, rotated first for every eighth.
  logic [31:0] previous, looked_up;
  logic [3:0][15:0] subbed;
  logic [1:0] drift[4];
  logic is_key_multiple, is_half_way;

  assign previous = {rows_q[Last][79:64], rows_q[Last][15:0]};
  assign is_key_multiple = index_q[2:0] == 3'd0;
  assign is_half_way = index_q[2:0] == 3'd4;
  assign looked_up = is_key_multiple ? aes_pkg::rotate_1(previous) : previous;

  for (genvar b = 0; b < 4; b += 2) begin : gen_sub
    aes_sbox_rom u_sbox_rom (
        .clk_i,
        .clear_i (wipe),
        .en_i    (busy_q & ~combine_q),
        .addr_a_i(looked_up[31-8*b-:8]),
        .addr_b_i(looked_up[23-8*b-:8]),
        .data_a_o(subbed[b]),
        .data_b_o(subbed[b+1]),
        .parity_a_o(drift[b]),
        .parity_b_o(drift[b+1])
    );
  end

  logic unused_twice;
  assign unused_twice = ^{subbed[0][15:8], subbed[1][15:8], subbed[2][15:8], subbed[3][15:8],
                          drift[0][1], drift[1][1], drift[2][1], drift[3][1]};

  // All but what the ROM says: the word eight places back, which is the first of the last round key but
  // one, and the constant, or the previous word.
  logic [31:0] substituted, rest_q, word_d;
  logic is_substituted;

  always_ff @(posedge clk_i) begin
    if (wipe) begin
      rest_q <= '0;
    end else if (busy_q && !combine_q) begin
      rest_q <= {rows_q[Last-1][127:112], rows_q[Last-1][63:48]} ^
          (is_key_multiple ? {rcon_q, 24'h0} : is_half_way ? 32'h0 : previous);
    end
  end

  // Second clock: the rest and the ROMs, which are slow.
  assign substituted = {subbed[0][7:0], subbed[1][7:0], subbed[2][7:0], subbed[3][7:0]};
  assign word_d = rest_q ^ (substituted & {32{is_substituted}});

  assign is_substituted = is_key_multiple | is_half_way;

  // The same for the parity, a clock later. Rotated by one row, even rows are odd.
  logic combined_q, rotated_q, constant_q, first_q, last_q;  // a word was made: what it was
  logic [1:0] parity_previous, parity_drift, drift_q, parity_d, part_d;

  assign parity_drift = {drift[1][0] ^ drift[3][0], drift[0][0] ^ drift[2][0]};

  always_ff @(posedge clk_i) begin
    if (wipe) begin
      {combined_q, rotated_q, constant_q, first_q, last_q} <= '0;
      drift_q <= '0;
    end else begin
      combined_q <= busy_q & combine_q & ~start_i;
      if (busy_q && combine_q) begin
        rotated_q  <= is_key_multiple;
        constant_q <= is_key_multiple & (^rcon_q);
        first_q    <= index_q[1:0] == 2'd0;
        last_q     <= index_q[1:0] == 2'd3;
        drift_q    <= parity_drift & {2{is_substituted}};
      end
    end
  end

  assign parity_previous = parity_q[KeyWords-1];
  assign parity_d = parity_q[0] ^ drift_q ^
      (rotated_q ? {parity_previous[0], parity_previous[1] ^ constant_q} : parity_previous);
  assign part_d = parity_d ^ (first_q ? 2'd0 : part_q);

  // No asynchronous reset on data: it leaves a clear to be done at the first edge.
  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      wipe_q <= 1'b1;
    end else begin
      wipe_q <= 1'b0;
    end
  end

  always_comb begin
    index_d   = index_q;
    rcon_d    = rcon_q;
    busy_d    = busy_q;
    combine_d = combine_q;
    done_d    = 1'b0;
    if (wipe) begin
      index_d   = '0;
      rcon_d    = '0;
      busy_d    = 1'b0;
      combine_d = 1'b0;
    end else if (start_i) begin
      index_d   = 6'(KeyWords);
      rcon_d    = 8'h01;
      busy_d    = 1'b1;
      combine_d = 1'b0;
    end else if (busy_q) begin
      combine_d = ~combine_q;
      if (combine_q) begin
        index_d = index_q + 6'd1;
        if (is_key_multiple) begin
          rcon_d = aes_pkg::xtime(rcon_q);
        end
        if (index_q == LastWord) begin
          busy_d = 1'b0;
          done_d = 1'b1;
        end
      end
    end
  end

  always_ff @(posedge clk_i) begin
    index_q   <= index_d;
    rcon_q    <= rcon_d;
    busy_q    <= busy_d;
    combine_q <= combine_d;
    done_q    <= done_d;
    if (wipe) begin
      rows_q <= '0;
    end else if (start_i) begin
      rows_q <= {
        aes_pkg::to_rows(key_i[127:0]),
        aes_pkg::to_rows(key_i[255:128]),
        {(128 * (Last - 1)) {1'b0}}
      };
    end else if (busy_q && combine_q) begin
      for (int r = 0; r < Last; r++) begin
        rows_q[r] <= {
          {rows_q[r][111:64], rows_q[r+1][127:112]}, {rows_q[r][47:0], rows_q[r+1][63:48]}
        };
      end
      rows_q[Last] <= {{rows_q[Last][111:64], word_d[31:16]}, {rows_q[Last][47:0], word_d[15:0]}};
    end
  end

  always_ff @(posedge clk_i) begin
    if (wipe) begin
      parity_q <= '0;
      sums_q   <= '0;
      part_q   <= '0;
    end else if (start_i) begin
      // Here, so that the simulation makes them only then.
      parity_q <= {
        {aes_pkg::row_parity(key_i[31:0]), aes_pkg::row_parity(key_i[63:32])},
        {aes_pkg::row_parity(key_i[95:64]), aes_pkg::row_parity(key_i[127:96])},
        {aes_pkg::row_parity(key_i[159:128]), aes_pkg::row_parity(key_i[191:160])},
        {aes_pkg::row_parity(key_i[223:192]), aes_pkg::row_parity(key_i[255:224])}
      };
      sums_q   <= {
        aes_pkg::block_parity(key_i[127:0]),
        aes_pkg::block_parity(key_i[255:128]),
        {(2 * (Last - 1)) {1'b0}}
      };
      part_q   <= '0;
    end else if (combined_q) begin
      parity_q <= {parity_d, parity_q[KeyWords-1:1]};
      part_q   <= part_d;
      if (last_q) begin
        sums_q <= {part_d, sums_q[Last:1]};
      end
    end
  end

  // The parities do not see these: a wrong constant or order is in words and parities alike.
  control_twin #(
      .Width($bits({index_q, rcon_q, busy_q, combine_q, done_q}))
  ) u_twin (
      .clk_i,
      .rst_ni,
      .next_i ({index_d, rcon_d, busy_d, combine_d, done_d}),
      .held_i ({index_q, rcon_q, busy_q, combine_q, done_q}),
      .wrong_o
  );

  assign rk_o        = rows_q;
  assign rk_parity_o = sums_q;
  assign busy_o = busy_q;
  assign done_o = done_q;

endmodule
