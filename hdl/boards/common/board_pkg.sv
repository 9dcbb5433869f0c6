// What the modules around the engine share: where things are on the bus, and the link's CRC.
//
// Written for Yosys' reader, which knows no `return`.

package board_pkg;

  // Byte addresses; UARTBone itself counts words of four bytes.
  localparam logic [31:0] EngineBase = 32'h0000_0000;
  localparam logic [31:0] BoardBase = 32'h0001_0000;
  localparam logic [31:0] InWindow = 32'h1000_0000;  // one frame word is four writes here
  localparam logic [31:0] InCommit = 32'h1000_0010;
  localparam logic [31:0] OutWindow = 32'h2000_0000;  // one result word is four reads here
  localparam logic [31:0] OutAck = 32'h2000_0010;

  // Registers of the engine (engine.rdl) that the board itself writes, and the command that it gives.
  localparam logic [7:0] EngineSealedKey = 8'h80;
  localparam logic [7:0] EngineCtrl = 8'h18;
  localparam logic [31:0] EngineLoadSealed = 32'h0000_0002;

  // CRC-32 of IEEE 802.3, one byte; the state begins with all ones, its complement is the CRC.
  function automatic logic [31:0] crc32_byte(input logic [31:0] state, input logic [7:0] data);
    crc32_byte = state ^ {24'h0, data};
    for (int i = 0; i < 8; i++) begin
      crc32_byte = {1'b0, crc32_byte[31:1]} ^ (crc32_byte[0] ? 32'hedb8_8320 : 32'h0);
    end
  endfunction

endpackage
