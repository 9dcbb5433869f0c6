// Frame words from the bus to the engine, each four 32-bit writes, first in, first out.
//
// Words written are staged: the engine sees none of them before a commit. A commit carries the CRC
// of all that the host sent before it; when the bridge received something else, or a word is
// incomplete, or there was no room, everything staged is dropped. So no word that was damaged on
// its way is ever worked on, and the host may send again what was dropped.
//
// Ports
//   write_i, data_i     a quarter of a word, first quarter first
//   commit_i, match_i   end of what was staged; match_i: the CRCs agree
//   clear_i             forget everything, counts too
//   count_o             words committed since clear; free_o: room, in words
//   staged_o            words staged now
//   out_*               committed words, valid/ready
//
// Latency: two clocks from commit.  Throughput out: one word a clock.

module record_in_window #(
    parameter int unsigned Words = 512  // a power of two
) (
    input  logic         clk_i,
    input  logic         rst_ni,
    input  logic         clear_i,
    input  logic         write_i,
    input  logic [ 31:0] data_i,
    input  logic         commit_i,
    input  logic         match_i,
    output logic [ 31:0] count_o,
    output logic [ 15:0] free_o,
    output logic [ 15:0] staged_o,
    output logic         out_valid_o,
    input  logic         out_ready_i,
    output logic [127:0] out_data_o
);

  localparam int unsigned IndexBits = $clog2(Words);
  localparam int unsigned CountBits = IndexBits + 1;

  // Differences have a name of their own: in a cast, Yosys would take them with its width.
  logic [CountBits-1:0] head_q, committed_q, staged_q, held, staged;
  logic [95:0] word_q;
  logic [1:0] quarter_q;
  logic overrun_q, out_valid_q;
  logic [31:0] count_q;
  logic whole, full, good, read;

  assign whole    = write_i && quarter_q == 2'd3;
  assign held     = staged_q - head_q;
  assign staged   = staged_q - committed_q;
  assign full     = held == CountBits'(Words);
  assign good     = match_i && quarter_q == '0 && !overrun_q;
  assign read     = head_q != committed_q && (!out_valid_q || out_ready_i);
  assign count_o  = count_q;
  assign free_o   = 16'(Words) - 16'(held);
  assign staged_o = 16'(staged);
  assign out_valid_o = out_valid_q;

  window_ram #(
      .Words(Words)
  ) u_ram (
      .clk_i,
      .write_i      (whole & ~full),
      .write_index_i(staged_q[IndexBits-1:0]),
      .write_data_i ({word_q, data_i}),
      .read_i       (read),
      .read_index_i (head_q[IndexBits-1:0]),
      .read_data_o  (out_data_o)
  );

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      staged_q    <= '0;
      committed_q <= '0;
      word_q      <= '0;
      quarter_q   <= '0;
      overrun_q   <= 1'b0;
      count_q     <= '0;
    end else if (clear_i) begin
      staged_q    <= '0;
      committed_q <= '0;
      quarter_q   <= '0;
      overrun_q   <= 1'b0;
      count_q     <= '0;
    end else if (commit_i) begin
      quarter_q <= '0;
      overrun_q <= 1'b0;
      if (good) begin
        committed_q <= staged_q;
        count_q     <= count_q + 32'(staged);
      end else begin
        staged_q <= committed_q;
      end
    end else if (write_i) begin
      word_q    <= {word_q[63:0], data_i};
      quarter_q <= quarter_q + 1'b1;
      if (whole && full) overrun_q <= 1'b1;
      if (whole && !full) staged_q <= staged_q + 1'b1;
    end
  end

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      head_q      <= '0;
      out_valid_q <= 1'b0;
    end else if (clear_i) begin
      head_q      <= '0;
      out_valid_q <= 1'b0;
    end else if (read) begin
      head_q      <= head_q + 1'b1;
      out_valid_q <= 1'b1;
    end else if (out_ready_i) begin
      out_valid_q <= 1'b0;
    end
  end

endmodule
