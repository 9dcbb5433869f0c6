// Memory for half of the ring, which wipes what was written to it.
//
// Words below the high-water mark may hold text; a wipe zeroes them from the mark down, then the
// read register. Reset cannot reach inside a memory, so after it the mark is at the top.
//
// Ports
//   wipe_i    start a wipe (ignored while one is under way)
//   wiping_o  writes are ignored, reads give nothing useful
//   write_*   one word a clock
//   read_*    one word a clock, read_data_o one clock after read_i and steady until the next
//
// Latency 1 clock to read; a wipe takes one clock a word below the mark, and two more.

module record_bank #(
    parameter int unsigned Words = 16384  // a power of two
) (
    input  logic                      clk_i,
    input  logic                      rst_ni,
    input  logic                      wipe_i,
    output logic                      wiping_o,
    input  logic                      write_i,
    input  logic [$clog2(Words)-1:0]  write_index_i,
    input  logic [127:0]              write_data_i,
    input  logic                      read_i,
    input  logic [$clog2(Words)-1:0]  read_index_i,
    output logic [127:0]              read_data_o
);

  localparam int unsigned IndexBits = $clog2(Words);
  localparam logic [IndexBits:0] Full = (IndexBits + 1)'(Words);

  // The ring never reads the word that it writes: no logic for that case.
  (* no_rw_check *)
  logic [127:0] memory[Words];
  logic [127:0] read_q;
  logic [IndexBits:0] mark_q, mark_after_write;
  logic wiping_q, wipe_write, wipe_end;
  logic write, read;
  logic [IndexBits-1:0] write_index, read_index;
  logic [127:0] write_data;

  assign wipe_write = wiping_q & (mark_q != '0);
  assign wipe_end = wiping_q & (mark_q == '0);

  // While wiping the mark comes down, and each step zeroes the word it passes.
  assign write = wipe_write | (write_i & ~wiping_q);
  assign write_index = wiping_q ? mark_q[IndexBits-1:0] - 1'b1 : write_index_i;
  assign write_data = wiping_q ? '0 : write_data_i;
  assign read = read_i | wipe_end;
  assign read_index = wiping_q ? '0 : read_index_i;
  assign mark_after_write = (IndexBits + 1)'(write_index_i) + 1'b1;

  always_ff @(posedge clk_i) begin
    if (write) begin
      memory[write_index] <= write_data;
    end
  end

  always_ff @(posedge clk_i) begin
    if (read) begin
      read_q <= memory[read_index];
    end
  end

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      wiping_q <= 1'b0;
      mark_q   <= Full;
    end else begin
      if (wiping_q) begin
        wiping_q <= ~wipe_end;
        if (wipe_write) begin
          mark_q <= mark_q - 1'b1;
        end
      end else begin
        wiping_q <= wipe_i;
        if (write_i && mark_after_write > mark_q) begin
          mark_q <= mark_after_write;
        end
      end
    end
  end

  assign wiping_o = wiping_q;
  assign read_data_o = read_q;

endmodule
