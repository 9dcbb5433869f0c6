// Memory for half of the ring, which wipes what was written to it.
//
// Words below the high-water mark may hold text; a wipe zeroes them from the mark down, then the
// read register. Reset cannot reach inside a memory, so after it the mark is at the top.
//
// A write stands in a register for one clock before it reaches the memory, so the word is there to
// be read two clocks after write_i.
//
// Ports
//   wipe_i    start a wipe (ignored while one is under way): a write that comes with it is ignored
//   wiping_o  writes are ignored, reads give nothing useful
//   write_*   one word a clock
//   read_*    one word a clock, read_data_o one clock after read_i and steady until the next
//   wrong_o   a register of control is not what it was set to
//
// Latency 1 clock to read; a wipe takes one clock a word below the mark, and three more.

module record_bank #(
    parameter int unsigned Words = 16384,  // a power of two
    parameter int unsigned Width = 132
) (
    input  logic                      clk_i,
    input  logic                      rst_ni,
    input  logic                      wipe_i,
    output logic                      wiping_o,
    input  logic                      write_i,
    input  logic [$clog2(Words)-1:0]  write_index_i,
    input  logic [Width-1:0]          write_data_i,
    input  logic                      read_i,
    input  logic [$clog2(Words)-1:0]  read_index_i,
    output logic [Width-1:0]          read_data_o,
    output logic                      wrong_o
);

  localparam int unsigned IndexBits = $clog2(Words);
  localparam logic [IndexBits:0] Full = (IndexBits + 1)'(Words);

  // The ring never reads the word that it writes: no logic for that case.
  (* no_rw_check *)
  logic [Width-1:0] memory[Words];
  logic [Width-1:0] read_q;
  logic [IndexBits:0] mark_q, mark_d, mark_after_write;
  logic wiping_q, wiping_d, wiped_q, wiped_d, wipe_write;
  logic write_q, write_d, wrote_q, wrote_d, read;  // wrote: what is written is no zero of a wipe
  logic [IndexBits-1:0] write_index_q, write_index_d, read_index;
  logic [Width-1:0] write_data_q;

  assign wipe_write = wiping_q & (mark_q != '0);
  assign read = read_i | wiping_q;
  assign read_index = wiping_q ? '0 : read_index_i;
  // The mark follows a write a clock later: no wipe has begun.
  assign mark_after_write = (IndexBits + 1)'(write_index_q) + 1'b1;

  // While wiping the mark comes down, and each step zeroes the word it passes.
  assign wrote_d = write_i & ~wipe_i & ~wiping_q;
  assign write_d = wipe_write | wrote_d;
  assign write_index_d = wiping_q ? mark_q[IndexBits-1:0] - 1'b1 : write_index_i;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      write_q <= 1'b0;
      wrote_q <= 1'b0;
    end else begin
      write_q <= write_d;
      wrote_q <= wrote_d;
    end
  end

  always_ff @(posedge clk_i) begin
    write_index_q <= write_index_d;
    if (wiping_q) begin
      write_data_q <= '0;
    end else if (write_i) begin
      write_data_q <= write_data_i;
    end
  end

  always_ff @(posedge clk_i) begin
    if (write_q) begin
      memory[write_index_q] <= write_data_q;
    end
  end

  always_ff @(posedge clk_i) begin
    if (read) begin
      read_q <= memory[read_index];
    end
  end

  // The last zero is in the memory when wiped_q says so, and is read then.
  assign wiped_d = wiping_q & ~wipe_write & ~wiped_q;
  assign wiping_d = wiping_q ? ~wiped_q : wipe_i;

  always_comb begin
    mark_d = mark_q;
    if (wipe_write) begin
      mark_d = mark_q - 1'b1;
    end else if (wrote_q && {1'b0, write_index_q} >= mark_q) begin
      mark_d = mark_after_write;
    end
  end

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      wiping_q <= 1'b0;
      wiped_q  <= 1'b0;
      mark_q   <= Full;
    end else begin
      wiping_q <= wiping_d;
      wiped_q  <= wiped_d;
      mark_q   <= mark_d;
    end
  end

  control_twin #(
      .Width($bits({write_q, wrote_q, write_index_q, wiping_q, wiped_q, mark_q}))
  ) u_twin (
      .clk_i,
      .rst_ni,
      .next_i({write_d, wrote_d, write_index_d, wiping_d, wiped_d, mark_d}),
      .held_i({write_q, wrote_q, write_index_q, wiping_q, wiped_q, mark_q}),
      .wrong_o
  );

  assign wiping_o = wiping_q;
  assign read_data_o = read_q;

endmodule
