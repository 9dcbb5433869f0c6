// The engine's transport key, out of a block RAM whose content is patched into the bitstream.
//
// As synthesized, the block RAM holds a known pattern; provisioning a board exchanges the pattern
// for the key in the finished bitstream, so that no synthesis sees the key. The bytes are read once
// after reset into a register, byte 0 first, and ready_o says that the key is steady.
//
// The pattern is that of xorshift32 (Marsaglia 2003: 13, 17, 5) begun at 0x54415045, its lowest byte
// of each step: no two of its bit slices are alike, which is how the block RAM is found again.
//
// Latency 34 clocks from reset to ready_o.

module transport_key_rom (
    input  logic         clk_i,
    input  logic         rst_ni,
    output logic         ready_o,
    output logic [255:0] key_o
);

  localparam int unsigned Bytes = 2048;  // one block RAM of 18 kbit, nine bits wide
  localparam logic [31:0] Seed = 32'h54415045;

  (* rom_style = "block" *)
  logic [7:0] rom[Bytes];
  logic [7:0] data_q;
  logic [5:0] place_q;  // of the byte that is read at this edge
  logic data_valid_q, ready_q;
  logic [255:0] key_q;

  initial begin : fill
    logic [31:0] x;
    x = Seed;
    for (int i = 0; i < Bytes; i++) begin
      x = x ^ (x << 13);
      x = x ^ (x >> 17);
      x = x ^ (x << 5);
      rom[i] = x[7:0];
    end
  end

  always_ff @(posedge clk_i) begin
    data_q <= rom[{5'h0, place_q}];
  end

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      place_q      <= '0;
      data_valid_q <= 1'b0;
      ready_q      <= 1'b0;
      key_q        <= '0;
    end else begin
      data_valid_q <= ~place_q[5];
      if (!place_q[5]) begin
        place_q <= place_q + 6'd1;
      end
      if (data_valid_q) begin
        key_q <= {key_q[247:0], data_q};
      end
      ready_q <= place_q[5] & ~data_valid_q;
    end
  end

  assign ready_o = ready_q;
  assign key_o   = key_q;

endmodule
