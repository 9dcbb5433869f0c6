// Loads a sealed key into the engine on request, beside the host: it shares the engine's register bus.
//
// Ten writes to SEALED_KEY and one to CTRL. The host's access under way is never cut, and waits for one
// write at most.
//
// Ports
//   start_i         begin, one clock; busy_o until the engine has the command
//   sealed_key_i    the key, word 0 leftmost; steady meanwhile
//   host_*          the host's access;  apb_*  the engine's registers
//
// Latency: none for the host while no load is under way; three clocks a write.

module key_loader (
    input  logic         clk_i,
    input  logic         rst_ni,
    input  logic         start_i,
    output logic         busy_o,
    input  logic [319:0] sealed_key_i,
    input  logic         host_psel_i,
    input  logic         host_penable_i,
    input  logic         host_pwrite_i,
    input  logic [  7:0] host_paddr_i,
    input  logic [ 31:0] host_pwdata_i,
    output logic         host_pready_o,
    output logic         apb_psel_o,
    output logic         apb_penable_o,
    output logic         apb_pwrite_o,
    output logic [  7:0] apb_paddr_o,
    output logic [ 31:0] apb_pwdata_o,
    input  logic         apb_pready_i
);

  localparam logic [7:0] SealedKey = board_pkg::EngineSealedKey;
  localparam logic [7:0] Ctrl = board_pkg::EngineCtrl;
  localparam logic [31:0] LoadSealed = board_pkg::EngineLoadSealed;
  localparam logic [3:0] Words = 4'd10;

  // The command is given a clock after its write; no record reaches the engine sooner than this.
  localparam logic [2:0] SettleClocks = 3'd7;

  logic busy_q, active_q, enable_q;
  logic [3:0] word_q;  // Words: the command
  logic [2:0] settle_q;
  logic ends;

  assign ends = active_q & enable_q & apb_pready_i;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      busy_q   <= 1'b0;
      active_q <= 1'b0;
      enable_q <= 1'b0;
      word_q   <= '0;
      settle_q <= '0;
    end else begin
      enable_q <= active_q & ~ends;
      if (!busy_q) begin
        busy_q   <= start_i;
        word_q   <= '0;
        settle_q <= SettleClocks;
      end else if (word_q > Words) begin
        settle_q <= settle_q - 3'd1;
        busy_q   <= settle_q != '0;
      end else if (ends) begin
        active_q <= 1'b0;
        word_q   <= word_q + 4'd1;
      end else if (!host_psel_i || host_pready_o) begin
        active_q <= 1'b1;  // also behind a host that asks without a pause
      end
    end
  end

  // One word behind the other; the command has no word of the key.
  logic [31:0] key_word;

  always_comb begin
    key_word = '0;
    for (int w = 0; w < 10; w++) begin
      if (word_q == 4'(w)) begin
        key_word = sealed_key_i[319-32*w-:32];
      end
    end
  end

  always_comb begin
    if (active_q) begin
      apb_psel_o    = 1'b1;
      apb_penable_o = enable_q;
      apb_pwrite_o  = 1'b1;
      apb_paddr_o   = word_q == Words ? Ctrl : SealedKey + {2'b00, word_q, 2'b00};
      apb_pwdata_o  = word_q == Words ? LoadSealed : key_word;
    end else begin
      apb_psel_o    = host_psel_i;
      apb_penable_o = host_penable_i;
      apb_pwrite_o  = host_pwrite_i;
      apb_paddr_o   = host_paddr_i;
      apb_pwdata_o  = host_pwdata_i;
    end
  end

  assign host_pready_o = apb_pready_i & ~active_q;
  assign busy_o        = busy_q;

endmodule
