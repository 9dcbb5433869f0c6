// AES-256 forward cipher, fully pipelined.
//
// FIPS 197 section 5.1, key length 256. The pipeline never stalls: what enters leaves
// AesLatency clocks later. Between blocks its stages stand still and keep what they held.
//
// Ports
//   clear_i    drops all blocks in flight and zeroes all data registers, at one edge
//   rk_i       the round keys, [0] first, each as aes_pkg::to_rows has it, and their parities; steady
//              while blocks are in flight
//   valid_i    block_i is a block to encrypt;  parity_i  aes_pkg::block_parity of what it should be
//   valid_o    block_o is a block encrypted
//   wrong_o    one clock, four after valid_o: that block is not what block, keys and tables make
//
// Latency drive_crypto_pkg::AesLatency (29 clocks), throughput one block a clock.

module aes_pipe (
    input  logic                                        clk_i,
    input  logic                                        rst_ni,
    input  logic                                        clear_i,
    input  logic [drive_crypto_pkg::AesRounds:0][127:0] rk_i,
    input  logic [drive_crypto_pkg::AesRounds:0][  1:0] rk_parity_i,
    input  logic                                        valid_i,
    input  logic [                        127:0]        block_i,
    input  logic [                          1:0]        parity_i,
    output logic                                        valid_o,
    output logic [                        127:0]        block_o,
    output logic                                        wrong_o
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
  logic [1:0] parity[Rounds+1];

  logic whitened_valid_q;
  logic [127:0] whitened_q;
  logic [1:0] parity_in_q, parity_whitened_q;

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
      whitened_q <= block_i ^ aes_pkg::from_rows(rk_i[0]);
    end
  end

  // The parity is one clock behind.
  always_ff @(posedge clk_i) begin
    if (wipe) begin
      parity_in_q       <= '0;
      parity_whitened_q <= '0;
    end else begin
      if (valid_i) begin
        parity_in_q <= parity_i;
      end
      parity_whitened_q <= parity_in_q ^ rk_parity_i[0];
    end
  end

  assign valid[0]  = whitened_valid_q;
  assign state[0]  = whitened_q;
  assign parity[0] = parity_whitened_q;

  for (genvar r = 1; r <= Rounds; r++) begin : gen_round
    aes_round #(
        .FinalRound(r == Rounds)
    ) u_round (
        .clk_i,
        .rst_ni,
        .clear_i(wipe),
        .rk_i   (rk_i[r]),
        .rk_parity_i(rk_parity_i[r]),
        .valid_i(valid[r-1]),
        .block_i(state[r-1]),
        .parity_i(parity[r-1]),
        .valid_o(valid[r]),
        .block_o(state[r]),
        .parity_o(parity[r])
    );
  end

  // The check: the columns summed, their parity, and whether that is the parity carried along.
  logic summed_valid_q, actual_valid_q, wrong_q;
  logic [31:0] summed_q;
  logic [1:0] actual_q, carried_q;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      summed_valid_q <= 1'b0;
      actual_valid_q <= 1'b0;
      wrong_q        <= 1'b0;
    end else if (wipe) begin
      summed_valid_q <= 1'b0;
      actual_valid_q <= 1'b0;
      wrong_q        <= 1'b0;
    end else begin
      summed_valid_q <= valid[Rounds];
      actual_valid_q <= summed_valid_q;
      wrong_q        <= actual_valid_q && actual_q != carried_q;
    end
  end

  always_ff @(posedge clk_i) begin
    if (wipe) begin
      summed_q  <= '0;
      actual_q  <= '0;
      carried_q <= '0;
    end else begin
      if (valid[Rounds]) begin
        summed_q <= block_o[127:96] ^ block_o[95:64] ^ block_o[63:32] ^ block_o[31:0];
      end
      actual_q  <= aes_pkg::row_parity(summed_q);
      carried_q <= parity[Rounds];
    end
  end

  assign valid_o = valid[Rounds];
  assign block_o = state[Rounds];
  assign wrong_o = wrong_q;

endmodule
