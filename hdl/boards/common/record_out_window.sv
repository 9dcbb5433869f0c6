// Result words from the engine to the bus, each four 32-bit reads, first in, first out.
//
// What was read stays until the host acknowledges it by the number of words that it has had since
// clear. An acknowledgement also takes reading back to the first word that is not acknowledged, so
// an answer that was lost or damaged on its way can be read again. It holds the number, modulo
// 65536, in its upper half and the complement of that in its lower: a damaged one does nothing.
//
// Ports
//   in_*               words from the engine, valid/ready
//   read_i             a quarter is asked for; data_o has it when ready_o, two clocks later
//   empty_o            with ready_o: there was none, data_o is zero
//   ack_i, ack_data_i  the host has had so many; bad_ack_o when it cannot be
//   clear_i            forget everything, counts too
//   count_o            words acknowledged since clear; level_o: words there beyond them

module record_out_window #(
    parameter int unsigned Words = 512  // a power of two
) (
    input  logic         clk_i,
    input  logic         rst_ni,
    input  logic         clear_i,
    input  logic         in_valid_i,
    output logic         in_ready_o,
    input  logic [127:0] in_data_i,
    input  logic         read_i,
    output logic         ready_o,
    output logic [ 31:0] data_o,
    output logic         empty_o,
    input  logic         ack_i,
    input  logic [ 31:0] ack_data_i,
    output logic         bad_ack_o,
    output logic [ 15:0] count_o,
    output logic [ 15:0] level_o
);

  localparam int unsigned IndexBits = $clog2(Words);
  localparam int unsigned CountBits = IndexBits + 1;

  logic [CountBits-1:0] tail_q, read_q, acked_q, level;
  logic [1:0] quarter_q;
  logic fetched_q, there_q, empty_q;  // in the memory's register, in word_q
  logic [15:0] count_q, step;
  logic [127:0] word, word_q;
  logic write, fetch;

  assign level      = tail_q - acked_q;
  assign in_ready_o = level != CountBits'(Words);
  assign write      = in_valid_i & in_ready_o;
  assign step       = ack_data_i[31:16] - count_q;
  assign bad_ack_o  = ack_i && (ack_data_i[15:0] != ~ack_data_i[31:16] || step > 16'(level));
  assign count_o    = count_q;
  assign level_o    = 16'(level);
  assign fetch      = read_i & ~fetched_q & ~there_q;
  assign ready_o    = read_i & there_q;
  assign empty_o    = ready_o & empty_q;

  window_ram #(
      .Words(Words)
  ) u_ram (
      .clk_i,
      .write_i      (write),
      .write_index_i(tail_q[IndexBits-1:0]),
      .write_data_i (in_data_i),
      .read_i       (fetch),
      .read_index_i (read_q[IndexBits-1:0]),
      .read_data_o  (word)
  );

  // A block RAM is slow: nothing but this register waits for it.
  always_ff @(posedge clk_i) begin
    word_q <= word;
  end

  always_comb begin
    unique case (quarter_q)
      2'd0:    data_o = word_q[127:96];
      2'd1:    data_o = word_q[95:64];
      2'd2:    data_o = word_q[63:32];
      default: data_o = word_q[31:0];
    endcase
    if (empty_q) data_o = '0;
  end

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      tail_q <= '0;
    end else if (clear_i) begin
      tail_q <= '0;
    end else if (write) begin
      tail_q <= tail_q + 1'b1;
    end
  end

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      read_q    <= '0;
      acked_q   <= '0;
      quarter_q <= '0;
      fetched_q <= 1'b0;
      there_q   <= 1'b0;
      empty_q   <= 1'b0;
      count_q   <= '0;
    end else if (clear_i) begin
      read_q    <= '0;
      acked_q   <= '0;
      quarter_q <= '0;
      fetched_q <= fetch;  // a read is answered meanwhile, too: by nothing
      there_q   <= fetched_q;
      empty_q   <= 1'b1;
      count_q   <= '0;
    end else begin
      fetched_q <= fetch;
      there_q   <= fetched_q;
      if (fetch) empty_q <= read_q == tail_q;
      if (ready_o && !empty_q) begin
        quarter_q <= quarter_q + 1'b1;
        if (quarter_q == 2'd3) read_q <= read_q + 1'b1;
      end
      if (ack_i) begin
        quarter_q <= '0;
        read_q    <= acked_q;
        if (!bad_ack_o) begin
          read_q  <= acked_q + step[CountBits-1:0];
          acked_q <= acked_q + step[CountBits-1:0];
          count_q <= ack_data_i[31:16];
        end
      end
    end
  end

endmodule
