// Tables and word functions of the AES (FIPS 197) for cipher, inverse cipher and key expansion.
//
// Written for Yosys' reader, which knows neither `return` nor packed arrays as parameters.

package aes_pkg;

  // Not every top that reads this package uses all of it.
  // verilator lint_off UNUSEDPARAM

  // FIPS 197 table 4, SubBytes, 256 bytes, entry 0 first.
  parameter logic [2047:0] Sbox = {
    128'h637c777b_f26b6fc5_3001672b_fed7ab76,
    128'hca82c97d_fa5947f0_add4a2af_9ca472c0,
    128'hb7fd9326_363ff7cc_34a5e5f1_71d83115,
    128'h04c723c3_1896059a_071280e2_eb27b275,
    128'h09832c1a_1b6e5aa0_523bd6b3_29e32f84,
    128'h53d100ed_20fcb15b_6acbbe39_4a4c58cf,
    128'hd0efaafb_434d3385_45f9027f_503c9fa8,
    128'h51a3408f_929d38f5_bcb6da21_10fff3d2,
    128'hcd0c13ec_5f974417_c4a77e3d_645d1973,
    128'h60814fdc_222a9088_46eeb814_de5e0bdb,
    128'he0323a0a_4906245c_c2d3ac62_9195e479,
    128'he7c8376d_8dd54ea9_6c56f4ea_657aae08,
    128'hba78252e_1ca6b4c6_e8dd741f_4bbd8b8a,
    128'h703eb566_4803f60e_613557b9_86c11d9e,
    128'he1f89811_69d98e94_9b1e87e9_ce5528df,
    128'h8ca1890d_bfe64268_41992d0f_b054bb16
  };

  // FIPS 197 table 6, InvSubBytes, in the same order.
  parameter logic [2047:0] InvSbox = {
    128'h52096ad5_3036a538_bf40a39e_81f3d7fb,
    128'h7ce33982_9b2fff87_348e4344_c4dee9cb,
    128'h547b9432_a6c2233d_ee4c950b_42fac34e,
    128'h082ea166_28d924b2_765ba249_6d8bd125,
    128'h72f8f664_86689816_d4a45ccc_5d65b692,
    128'h6c704850_fdedb9da_5e154657_a78d9d84,
    128'h90d8ab00_8cbcd30a_f7e45805_b8b34506,
    128'hd02c1e8f_ca3f0f02_c1afbd03_01138a6b,
    128'h3a911141_4f67dcea_97f2cfce_f0b4e673,
    128'h96ac7422_e7ad3585_e2f937e8_1c75df6e,
    128'h47f11a71_1d29c589_6fb7620e_aa18be1b,
    128'hfc563e4b_c6d27920_9adbc0fe_78cd5af4,
    128'h1fdda833_8807c731_b1121059_2780ec5f,
    128'h60517fa9_19b54a0d_2de57a9f_93c99cef,
    128'ha0e03b4d_ae2af5b0_c8ebbb3c_83539961,
    128'h172b047e_ba77d626_e1691463_55210c7d
  };

  // verilator lint_on UNUSEDPARAM

  // FIPS 197 section 4.2: times {02}.
  function automatic logic [7:0] xtime(input logic [7:0] a);
    xtime = {a[6:0], 1'b0} ^ (a[7] ? 8'h1b : 8'h00);
  endfunction

  // What the ROMs hold at `a`: {parity of {02} * s, parity of a and s, {02} * s, s}, s = Sbox[a]. Not
  // inlined: else each of a hundred ROMs spells the table out anew, and the simulation takes twice
  // as long to compile.
  function automatic logic [17:0] sbox_entry(input logic [7:0] a);
    // verilator no_inline_task
    logic [7:0] s;
    s = Sbox[2047-8*a-:8];
    sbox_entry = {^xtime(s), ^{a, s}, xtime(s), s};
  endfunction

  function automatic logic [7:0] inv_sbox_entry(input logic [7:0] a);
    // verilator no_inline_task
    inv_sbox_entry = InvSbox[2047-8*a-:8];
  endfunction

  // Parities of a column, or of any words summed: [0] of rows 0 and 2, [1] of rows 1 and 3.
  function automatic logic [1:0] row_parity(input logic [31:0] column);
    row_parity = {^(column & 32'h00ff00ff), ^(column & 32'hff00ff00)};
  endfunction

  // The same of a block. Words are summed first: a parity costs the simulation more than a sum.
  function automatic logic [1:0] block_parity(input logic [127:0] block);
    block_parity = row_parity(block[127:96] ^ block[95:64] ^ block[63:32] ^ block[31:0]);
  endfunction

  // A block as a round holds it: rows 0 and 1 of each column, then rows 2 and 3 of each; and back.
  function automatic logic [127:0] to_rows(input logic [127:0] block);
    to_rows = {
      {block[127:112], block[95:80], block[63:48], block[31:16]},
      {block[111:96], block[79:64], block[47:32], block[15:0]}
    };
  endfunction

  function automatic logic [127:0] from_rows(input logic [127:0] rows);
    from_rows = {
      {rows[127:112], rows[63:48], rows[111:96], rows[47:32]},
      {rows[95:80], rows[31:16], rows[79:64], rows[15:0]}
    };
  endfunction

  // A column rotated so that each byte's place is taken by the byte `count` rows below it.
  function automatic logic [31:0] rotate_1(input logic [31:0] w);
    rotate_1 = {w[23:0], w[31:24]};
  endfunction

  function automatic logic [31:0] rotate_2(input logic [31:0] w);
    rotate_2 = {w[15:0], w[31:16]};
  endfunction

  function automatic logic [31:0] rotate_3(input logic [31:0] w);
    rotate_3 = {w[7:0], w[31:8]};
  endfunction

  // FIPS 197 section 5.1.3, MixColumns, of all columns at once: {rows r, r+1} of each from {{02} * s, s}
  // of its rows r, r+1, r+2, r+3. {02} this row + {03} next row + the two after that.
  function automatic logic [63:0] mix_rows(input logic [63:0] w0, input logic [63:0] w1,
                                           input logic [63:0] w2, input logic [63:0] w3);
    mix_rows = ((w0 ^ w1 ^ ((w1 ^ w2 ^ w3) << 8)) & 64'hff00ff00ff00ff00) |
               ((((w1 ^ w2) >> 8) ^ w2 ^ w3 ^ w0) & 64'h00ff00ff00ff00ff);
  endfunction

  // The same without MixColumns.
  function automatic logic [63:0] join_rows(input logic [63:0] w0, input logic [63:0] w1);
    join_rows = ((w0 << 8) & 64'hff00ff00ff00ff00) | (w1 & 64'h00ff00ff00ff00ff);
  endfunction

  // xtime of the four bytes of a word.
  function automatic logic [31:0] xtime_word(input logic [31:0] w);
    logic [31:0] carries;
    carries = (w >> 7) & 32'h01010101;
    xtime_word = ((w & 32'h7f7f7f7f) << 1) ^ carries ^ (carries << 1) ^ (carries << 3) ^
        (carries << 4);
  endfunction

  // FIPS 197 section 5.3.3, InvMixColumns of one column: MixColumns once {04} of the byte two rows
  // on and of its own is added to each.
  function automatic logic [31:0] inv_mix_column(input logic [31:0] w);
    logic [31:0] once, twice;
    once = w ^ xtime_word(xtime_word(w ^ rotate_2(w)));
    twice = xtime_word(once);
    inv_mix_column = twice ^ rotate_1(twice ^ once) ^ rotate_2(once) ^ rotate_3(once);
  endfunction

endpackage
