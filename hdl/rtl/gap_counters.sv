// The longest gap and the longest latency, and the snapshot through which they are read.
//
// A gap is a row of clocks in which the engine holds up its streams: a record is inside, it neither
// takes nor offers a word, and the pace limit holds none back. Latency is that of a record, from the
// end of its frame to the header of its result.
//
// Results come in the order of their frames, so a ring of the clocks at which frames ended is enough.
//
// Ports
//   clear_i, snapshot_i  one clock each: both and the snapshot to zero; copy both at once
//   inside_i, moves_i    a record is inside; a word is taken or offered, or held back by the pace
//   ended_i              a frame ends
//   out_valid_i, out_ready_i, out_last_i   the result stream
//   *_o                  the snapshot; both stop at their highest value
//
// What happens in a clock is counted four clocks later at most: a word moves late in its clock.

module gap_counters #(
    parameter int unsigned Records = 32  // inside at once, or more; a power of two
) (
    input  logic        clk_i,
    input  logic        rst_ni,
    input  logic        clear_i,
    input  logic        snapshot_i,
    input  logic        inside_i,
    input  logic        moves_i,
    input  logic        ended_i,
    input  logic        out_valid_i,
    input  logic        out_ready_i,
    input  logic        out_last_i,
    output logic [31:0] longest_gap_o,
    output logic [31:0] longest_latency_o
);

  localparam int unsigned PlaceBits = $clog2(Records);

  // ---- Gap -------------------------------------------------------------------------------------

  logic inside_q, moves_q, gap_q;
  logic [31:0] row_q, longest_gap_q;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      inside_q      <= 1'b0;
      moves_q       <= 1'b0;
      gap_q         <= 1'b0;
      row_q         <= '0;
      longest_gap_q <= '0;
    end else begin
      inside_q <= inside_i;
      moves_q  <= moves_i;
      gap_q    <= inside_q & ~moves_q;
      if (!gap_q || clear_i) begin
        row_q <= '0;
      end else if (row_q != '1) begin
        row_q <= row_q + 32'd1;
      end
      if (clear_i) begin
        longest_gap_q <= '0;
      end else if (row_q > longest_gap_q) begin
        longest_gap_q <= row_q;
      end
    end
  end

  // ---- Latency ---------------------------------------------------------------------------------

  logic [31:0] now_q, latency_q, longest_latency_q;
  logic [31:0] ends[Records];
  logic [PlaceBits-1:0] end_place_q, result_place_q;
  logic inside_frame_q, offered_q, offers_q, ended_q, latency_valid_q;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      now_q             <= '0;
      end_place_q       <= '0;
      result_place_q    <= '0;
      inside_frame_q    <= 1'b0;
      offered_q         <= 1'b0;
      offers_q          <= 1'b0;
      ended_q           <= 1'b0;
      latency_valid_q   <= 1'b0;
      longest_latency_q <= '0;
    end else begin
      now_q           <= now_q + 32'd1;
      ended_q         <= ended_i;
      // The header of a result is there: the first word of a frame, for the first time.
      offers_q        <= out_valid_i & ~inside_frame_q & ~offered_q;
      latency_valid_q <= offers_q;
      if (out_valid_i && out_ready_i) begin
        inside_frame_q <= ~out_last_i;
        offered_q      <= 1'b0;
      end else if (out_valid_i) begin
        offered_q <= 1'b1;
      end
      if (ended_q) begin
        end_place_q <= end_place_q + 1'b1;
      end
      if (offers_q) begin
        result_place_q <= result_place_q + 1'b1;
      end
      if (clear_i) begin
        longest_latency_q <= '0;
      end else if (latency_valid_q && latency_q > longest_latency_q) begin
        longest_latency_q <= latency_q;
      end
    end
  end

  always_ff @(posedge clk_i) begin
    if (ended_q) begin
      ends[end_place_q] <= now_q;
    end
    if (offers_q) begin
      latency_q <= now_q - ends[result_place_q];
    end
  end

  // ---- Snapshot --------------------------------------------------------------------------------

  logic [31:0] gap_snapshot_q, latency_snapshot_q;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      gap_snapshot_q     <= '0;
      latency_snapshot_q <= '0;
    end else if (clear_i) begin
      gap_snapshot_q     <= '0;
      latency_snapshot_q <= '0;
    end else if (snapshot_i) begin
      gap_snapshot_q     <= longest_gap_q;
      latency_snapshot_q <= longest_latency_q;
    end
  end

  assign longest_gap_o     = gap_snapshot_q;
  assign longest_latency_o = latency_snapshot_q;

endmodule
