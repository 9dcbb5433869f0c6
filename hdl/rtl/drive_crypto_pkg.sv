// Types and constants shared by the modules of the drive's crypto engine.
//
// Byte 0 of every 16-byte block is bits [127:120], as FIPS 197 and SP 800-38D write them.
//
// Yosys reads no `import`: name what you use as drive_crypto_pkg::Name.

package drive_crypto_pkg;

  // Not every top that reads this package uses all of it.
  // verilator lint_off UNUSEDPARAM

  // ---- Record frames ------------------------------------------------------------------------

  parameter int unsigned MaxAadBytes = 128;

  typedef enum logic [3:0] {
    OpEncrypt = 4'd1,
    OpDecrypt = 4'd2,
    OpBypass  = 4'd3
  } op_e;

  typedef enum logic [7:0] {
    StatusOk          = 8'd0,
    StatusTagMismatch = 8'd1,
    StatusNoKey       = 8'd2,
    StatusBadFrame    = 8'd3,
    StatusNotReady    = 8'd4,
    StatusZeroized    = 8'd5
  } status_e;

  // First word of a frame on its way in. The op is plain bits: it may be none of op_e.
  typedef struct packed {
    logic [3:0]  op;        // [127:124]
    logic [7:0]  aad_len;   // [123:116] bytes, 0 to MaxAadBytes
    logic        rsvd;      // [115]
    logic [18:0] data_len;  // [114:96]  bytes, 0 to 262144
    logic [95:0] iv;        // [95:0]
  } record_header_t;

  // First word of a frame on its way out.
  typedef struct packed {
    logic [7:0]  status;    // [127:120] status_e
    logic [3:0]  op;        // [119:116]
    logic        rsvd;      // [115]
    logic [18:0] data_len;  // [114:96]  bytes
    logic [95:0] zero;      // [95:0]
  } record_result_t;

  // ---- Width of the data path -----------------------------------------------------------------

  // Parameter WordBytes of the modules: bytes a clock, 16, 8, 4 or 1. A word has 16 bytes at every
  // width, and passes every word_clocks clocks.
  function automatic int unsigned word_clocks(input int unsigned word_bytes);
    word_clocks = 16 / word_bytes;
  endfunction

  // Clocks of a record beside those of its data and AAD words (register PROMISE): the turn of its
  // end on the way in, or header, tag and four gaps on the way out, where these take longer.
  function automatic int unsigned record_overhead(input int unsigned word_bytes);
    record_overhead = word_clocks(word_bytes) > 3 ? word_clocks(word_bytes) :
        7 - word_clocks(word_bytes);
  endfunction

  // ---- Fixed latencies, in clocks from the edge that takes the input to valid output ---------

  // AES-256: one stage of whitening, then two a round (S-box read; MixColumns and round key), three
  // where a round unit serves several rounds.
  parameter int unsigned AesRounds = 14;

  function automatic int unsigned aes_latency(input int unsigned word_bytes);
    aes_latency = 1 + (word_clocks(word_bytes) == 1 ? 2 : 3) * AesRounds;
  endfunction

  // A product in GHASH is nine products of 32-bit words. As many multipliers as finish them before the
  // next block comes, and the clocks that they take.
  function automatic int unsigned ghash_multipliers(input int unsigned word_bytes);
    ghash_multipliers = (9 + word_clocks(word_bytes) - 1) / word_clocks(word_bytes);
  endfunction

  function automatic int unsigned ghash_turns(input int unsigned word_bytes);
    ghash_turns = (9 + ghash_multipliers(word_bytes) - 1) / ghash_multipliers(word_bytes);
  endfunction

  // GHASH: input stage, sum with the lane, the products, the whole product, reduction.
  function automatic int unsigned ghash_latency(input int unsigned word_bytes);
    ghash_latency = 4 + ghash_turns(word_bytes);
  endfunction

  // Round keys of AES-256, [0] is used first. To be passed on whole: Yosys takes an index into a
  // type from a package for the index of a bit, so modules that look inside spell it out.
  typedef logic [AesRounds:0][127:0] round_keys_t;
  typedef logic [AesRounds:0][1:0] key_parities_t;

  // verilator lint_on UNUSEDPARAM

endpackage
