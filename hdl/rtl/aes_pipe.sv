// AES-256 forward cipher, fully pipelined.
//
// FIPS 197 section 5.1, key length 256. The pipeline never stalls: what enters leaves
// AesLatency clocks later. Between blocks its stages stand still and keep what they held.
//
// Ports
//   clear_i    drops all blocks in flight and zeroes all data registers, at one edge
//   rk_i       the round keys, [0] first; steady while blocks are in flight
//   valid_i    block_i is a block to encrypt
//   valid_o    block_o is a block encrypted
//
// Latency drive_crypto_pkg::AesLatency (29 clocks), throughput one block a clock.

module aes_pipe (
    input  logic                                        clk_i,
    input  logic                                        rst_ni,
    input  logic                                        clear_i,
    input  logic [drive_crypto_pkg::AesRounds:0][127:0] rk_i,
    input  logic                                        valid_i,
    input  logic [                        127:0]        block_i,
    output logic                                        valid_o,
    output logic [                        127:0]        block_o
);

  localparam int unsigned Rounds = drive_crypto_pkg::AesRounds;

  // Data registers have no reset of their own (block RAM outputs cannot have an asynchronous one
  // beside the synchronous one): reset leaves a clear to be done at the first edge.
  logic wipe_q, wipe;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      wipe_q <= 1'b1;
    end else begin
      wipe_q <= 1'b0;
    end
  end

  assign wipe = clear_i | wipe_q;

  logic [Rounds:0] valid;
  logic [Rounds:0][127:0] state;

  logic whitened_valid_q;
  logic [127:0] whitened_q;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      whitened_valid_q <= 1'b0;
    end else begin
      whitened_valid_q <= valid_i & ~wipe;
    end
  end

  always_ff @(posedge clk_i) begin
    if (wipe) begin
      whitened_q <= '0;
    end else if (valid_i) begin
      whitened_q <= block_i ^ rk_i[0];
    end
  end

  assign valid[0] = whitened_valid_q;
  assign state[0] = whitened_q;

  for (genvar r = 1; r <= Rounds; r++) begin : gen_round
    aes_round #(
        .FinalRound(r == Rounds)
    ) u_round (
        .clk_i,
        .rst_ni,
        .clear_i(wipe),
        .rk_i   (rk_i[r]),
        .valid_i(valid[r-1]),
        .block_i(state[r-1]),
        .valid_o(valid[r]),
        .block_o(state[r])
    );
  end

  assign valid_o = valid[Rounds];
  assign block_o = state[Rounds];

endmodule
