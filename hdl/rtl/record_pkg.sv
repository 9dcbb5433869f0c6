// What travels through the record path beside the cipher: slots.
//
// The issue stage turns every word of a record into a slot. A slot waits in the delay line for as
// long as its counter block is in the cipher, and meets its keystream at the exit stage.

package record_pkg;

  // verilator lint_off UNUSEDPARAM

  // Ports carry a kind as plain bits: a value read back from a memory is not of an enum type.
  typedef enum logic [2:0] {
    SlotNone    = 3'd0,
    SlotAad     = 3'd1,  // data: AAD, pad bytes zero
    SlotData    = 3'd2,  // data: text in, pad bytes zero
    SlotEnd     = 3'd3,  // data: expected tag on decrypt; meets E(J0)
    SlotRefused = 3'd4,  // the end of a refused record, which has no other slots
    SlotHashKey = 3'd5   // meets E(0), the hash key
  } slot_kind_e;

  typedef struct packed {
    logic         check;   // parity of first and bytes
    logic [3:0]   parity;  // of each 32-bit word of data, [3] of the first
    logic         first;   // first slot of its record
    logic [3:0]   bytes;   // valid bytes of a data word, 0 means 16
    logic [127:0] data;
  } slot_t;

  // verilator lint_on UNUSEDPARAM

  // All ones over the first `bytes` bytes of a block, 0 meaning all 16. No loop in a branch: Yosys
  // would take its variable for a latch.
  function automatic logic [127:0] byte_mask(input logic [3:0] bytes);
    byte_mask = bytes == 4'd0 ? '1 : ~({128{1'b1}} >> {bytes, 3'b000});
  endfunction

  // Parity of those bits of a word whose bytes `mask` lets through, made from the parities of its
  // bytes: neither waits for the other.
  function automatic logic word_parity(input logic [31:0] word, input logic [31:0] mask);
    logic [31:0] folded;
    folded = word ^ (word >> 4);
    folded = folded ^ (folded >> 2);
    folded = folded ^ (folded >> 1);
    word_parity = ^(folded & mask & 32'h01010101);
  endfunction

  // The same of the four words of a block.
  function automatic logic [3:0] masked_parity(input logic [127:0] block, input logic [127:0] mask);
    masked_parity = {
      word_parity(block[127:96], mask[127:96]),
      word_parity(block[95:64], mask[95:64]),
      word_parity(block[63:32], mask[63:32]),
      word_parity(block[31:0], mask[31:0])
    };
  endfunction

  // Parities of the four words of a block, and whether it is not what its parities say.
  function automatic logic [3:0] block_parities(input logic [127:0] block);
    block_parities = {^block[127:96], ^block[95:64], ^block[63:32], ^block[31:0]};
  endfunction

  function automatic logic parity_wrong(input logic [127:0] block, input logic [3:0] parity);
    parity_wrong = block_parities(block) != parity;
  endfunction

endpackage
