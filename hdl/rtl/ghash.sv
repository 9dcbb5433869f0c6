// GHASH of SP 800-38D section 6.4, one block every 16 / WordBytes clocks.
//
// Interleaved lanes hide the multiplier's clocks, four of them at the full width: block i of n (from 0)
// joins what its lane got from block i-4 and is multiplied by H^4, but in the last four blocks by
// H^(n-i). The digest is the sum of the last four products. So the number of blocks must be known at the
// first. At other widths the same with as many lanes as it takes.
//
// Ports
//   clear_i         zeroes all registers, the powers of H included, at one edge
//   h_load_i        takes h_i and computes its powers; only while no block is in flight
//   h_ready_o       the powers are ready: blocks may come
//   valid_i         block_i is the next block of a record (AAD, data and lengths alike)
//   count_i         blocks of the record, 1 or more; looked at with first_i only
//   first_i,last_i  mark the first and last block. Records may follow each other at once, and
//                   clocks without a block may fall anywhere, and must where a block takes several
//   digest_valid_o  one clock: digest_o is the digest of a record
//
// Latency drive_crypto_pkg::ghash_latency (5, 6, 7, 13 clocks) from last_i to digest_valid_o, 16, 19, 8 and
// 1 from h_load_i to h_ready_o. Throughput WordBytes a clock.

module ghash #(
    parameter int unsigned WordBytes = 16  // bytes a clock: 16, 8, 4 or 1
) (
    input  logic         clk_i,
    input  logic         rst_ni,
    input  logic         clear_i,
    input  logic         h_load_i,
    input  logic [127:0] h_i,
    output logic         h_ready_o,
    input  logic         valid_i,
    input  logic [127:0] block_i,
    input  logic [ 17:0] count_i,
    input  logic         first_i,
    input  logic         last_i,
    output logic         digest_valid_o,
    output logic [127:0] digest_o
);

  // No asynchronous reset on data: it leaves a clear to be done at the first edge.
  logic wipe_q, wipe;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      wipe_q <= 1'b1;
    end else begin
      wipe_q <= 1'b0;
    end
  end

  assign wipe = clear_i | wipe_q;

  localparam int unsigned Turns = drive_crypto_pkg::ghash_turns(WordBytes);

  // A lane is ready for its next block three clocks and the multiplier's turns after its last.
  localparam int unsigned BlocksUntilReady = (3 + Turns + 16 / WordBytes - 1) / (16 / WordBytes);
  localparam int unsigned Lanes = BlocksUntilReady == 3 ? 4 : BlocksUntilReady;  // a power of two
  localparam logic [1:0] LastLane = 2'(Lanes - 1);

  // What has to be done with a product, travelling beside its factors.
  typedef struct packed {
    logic       valid;
    logic       power;       // a power of H, not a lane's value
    logic       tail;        // one of the last of its record, as many as there are lanes
    logic       tail_first;  // the first of those
    logic       last;
    logic [1:0] lane;
  } slot_t;

  // ---- Input: which lane, which power ----------------------------------------------------------

  logic  [127:0] x_q;
  logic  [  1:0] power_sel_q;  // H^(power_sel_q + 1)
  logic          fresh_q;  // the record's first blocks find nothing in their lanes
  slot_t         in_q;

  logic [17:0] remaining, remaining_q;  // blocks to come, this one included
  logic [1:0] lane, lane_q;
  logic fresh, next_fresh_q;

  assign remaining = first_i ? count_i : remaining_q;
  assign lane = first_i ? 2'd0 : lane_q;
  assign fresh = first_i | next_fresh_q;

  logic tail;
  logic [1:0] remaining_less_1;
  assign tail = remaining <= 18'(Lanes);
  assign remaining_less_1 = remaining[1:0] - 2'd1;

  // ---- Powers of H -----------------------------------------------------------------------------

  logic [4:1][127:0] h_q;
  logic h_ready_q, power_start_q, power_done;
  logic [2:0] power_q;  // being computed
  logic [127:0] product, power_factor;

  always_comb begin
    unique case (power_q)
      3'd2:    power_factor = h_q[1];
      3'd3:    power_factor = h_q[2];
      default: power_factor = h_q[3];
    endcase
  end

  always_ff @(posedge clk_i) begin
    if (wipe) begin
      h_q           <= '0;
      h_ready_q     <= 1'b0;
      power_q       <= '0;
      power_start_q <= 1'b0;
    end else if (h_load_i) begin
      h_q[1]        <= h_i;
      h_ready_q     <= Lanes == 1;
      power_q       <= 3'd2;
      power_start_q <= Lanes != 1;
    end else begin
      power_start_q <= 1'b0;
      if (power_done) begin
        for (int p = 2; p <= Lanes; p++) begin
          if (power_q == 3'(p)) begin
            h_q[p] <= product;
          end
        end
        power_q       <= power_q + 3'd1;
        h_ready_q     <= power_q == 3'(Lanes);
        power_start_q <= power_q != 3'(Lanes);
      end
    end
  end

  assign h_ready_o = h_ready_q;

  // ---- Stages ----------------------------------------------------------------------------------

  localparam int unsigned SlotBits = $bits(in_q);
  logic [Turns:0][SlotBits-1:0] product_slots_q;  // [0] is the youngest
  slot_t products_slot, wide_slot_q;

  assign products_slot = product_slots_q[Turns];
  logic [3:0][127:0] lanes_q;
  logic [127:0] lane_value, power_value;
  logic [127:0] digest_q;
  logic digest_valid_q;

  always_comb begin
    unique case (in_q.lane)
      2'd0:    lane_value = lanes_q[0];
      2'd1:    lane_value = lanes_q[1];
      2'd2:    lane_value = lanes_q[2];
      default: lane_value = lanes_q[3];
    endcase
    if (fresh_q) begin
      lane_value = '0;
    end
    unique case (power_sel_q)
      2'd0:    power_value = h_q[1];
      2'd1:    power_value = h_q[2];
      2'd2:    power_value = h_q[3];
      default: power_value = h_q[4];
    endcase
  end

  always_ff @(posedge clk_i) begin
    if (wipe || h_load_i) begin
      in_q            <= '0;
      x_q             <= '0;
      power_sel_q     <= '0;
      fresh_q         <= 1'b0;
      remaining_q     <= '0;
      lane_q          <= '0;
      next_fresh_q    <= 1'b0;
      product_slots_q <= '0;
      wide_slot_q     <= '0;
    end else begin
      in_q <= '0;
      if (power_start_q) begin
        in_q.valid  <= 1'b1;
        in_q.power  <= 1'b1;
        x_q         <= power_factor;
        power_sel_q <= 2'd0;
        fresh_q     <= 1'b1;
      end else if (valid_i) begin
        in_q.valid      <= 1'b1;
        in_q.tail       <= tail;
        in_q.tail_first <= tail && (first_i || remaining == 18'(Lanes));
        in_q.last       <= last_i;
        in_q.lane       <= lane;
        x_q             <= block_i;
        power_sel_q     <= tail ? remaining_less_1 & LastLane : LastLane;
        fresh_q         <= fresh;
        remaining_q     <= remaining - 18'd1;
        lane_q          <= (lane + 2'd1) & LastLane;
        next_fresh_q    <= fresh && lane != LastLane;
      end
      product_slots_q <= {product_slots_q[Turns-1:0], in_q};
      wide_slot_q     <= products_slot;
    end
  end

  gf128_mul #(
      .WordBytes(WordBytes)
  ) u_gf128_mul (
      .clk_i,
      .clear_i(wipe),
      .valid_i(in_q.valid),
      .a_i    (x_q ^ lane_value),
      .b_i    (power_value),
      .p_o    (product)
  );

  assign power_done = wide_slot_q.valid && wide_slot_q.power;

  always_ff @(posedge clk_i) begin
    if (wipe) begin
      lanes_q        <= '0;
      digest_q       <= '0;
      digest_valid_q <= 1'b0;
    end else begin
      digest_valid_q <= wide_slot_q.valid && wide_slot_q.last;
      if (wide_slot_q.valid && !wide_slot_q.power) begin
        for (int l = 0; l < Lanes; l++) begin
          if (wide_slot_q.lane == 2'(l)) begin
            lanes_q[l] <= product;
          end
        end
        if (wide_slot_q.tail) begin
          digest_q <= (wide_slot_q.tail_first ? '0 : digest_q) ^ product;
        end
      end
    end
  end

  assign digest_valid_o = digest_valid_q;
  assign digest_o       = digest_q;

endmodule
