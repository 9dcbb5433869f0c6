// Words that the host sends for the engine: none is seen before a commit with the right CRC, none
// is written over before it has left, and those committed leave in order, each once, unchanged.
//
// The window is short. One word, any, is watched from when its last quarter is written: whether it
// was committed, and how many are before it.

module window_in (
    input logic        clk_i,
    input logic        rst_ni,
    input logic        clear_i,
    input logic        write_i,
    input logic [31:0] data_i,
    input logic        commit_i,
    input logic        match_i,
    input logic        out_ready_i
);

  localparam int unsigned Words = 4;

  logic [31:0] count;
  logic [15:0] free, staged;
  logic out_valid;
  logic [127:0] out_data;

  record_in_window #(
      .Words(Words)
  ) u_dut (
      .clk_i,
      .rst_ni,
      .clear_i,
      .write_i,
      .data_i,
      .commit_i,
      .match_i,
      .count_o    (count),
      .free_o     (free),
      .staged_o   (staged),
      .out_valid_o(out_valid),
      .out_ready_i,
      .out_data_o (out_data)
  );

  // The bus makes one access at a time.
  always_comb begin
    assume (!(write_i && commit_i));
  end

  (* hierconn *) wire [2:0] \u_dut.head_q ;
  (* hierconn *) wire [2:0] \u_dut.committed_q ;
  (* hierconn *) wire [2:0] \u_dut.staged_q ;
  (* hierconn *) wire [95:0] \u_dut.word_q ;
  (* hierconn *) wire [1:0] \u_dut.quarter_q ;
  (* hierconn *) wire \u_dut.overrun_q ;
  (* hierconn *) wire [127:0] \u_dut.u_ram.memory[0] ;
  (* hierconn *) wire [127:0] \u_dut.u_ram.memory[1] ;
  (* hierconn *) wire [127:0] \u_dut.u_ram.memory[2] ;
  (* hierconn *) wire [127:0] \u_dut.u_ram.memory[3] ;
  wire [3:0][127:0] memory = {
    \u_dut.u_ram.memory[3] , \u_dut.u_ram.memory[2] , \u_dut.u_ram.memory[1] ,
    \u_dut.u_ram.memory[0]
  };
  wire [2:0] head = \u_dut.head_q ;

  // Counted from outside: quarters since the last commit, words staged and not dropped, words
  // committed that are still in the memory, words let out of the window.
  logic [1:0] quarters_q;
  logic [2:0] staged_q, committed_q;
  logic lost_q;  // a word found no room
  logic [31:0] counted_q;
  logic [95:0] begun_q;
  wire whole = write_i && quarters_q == 2'd3;
  wire room = staged_q + committed_q != 3'd4;
  wire good = commit_i && match_i && quarters_q == 2'd0 && !lost_q;
  // A word moves from the memory to the register in front of the engine.
  wire moves = \u_dut.head_q != \u_dut.committed_q && (!out_valid || out_ready_i);

  (* anyseq *) logic watch;
  logic watching_q, passed_q, in_front_q;
  logic [127:0] word_q;
  logic [2:0] before_q;  // words in the memory that are before it
  wire starts = watch && !watching_q && whole && room;
  wire [1:0] lies_at = head[1:0] + before_q[1:0];

  logic started_q;
  initial started_q = 1'b0;

  always_ff @(posedge clk_i) begin
    started_q <= 1'b1;
    if (!started_q) begin
      assume (!rst_ni);
    end
    if (!rst_ni) begin
      begun_q <= '0;
    end else if (write_i && !clear_i) begin
      begun_q <= {begun_q[63:0], data_i};
    end
    if (!rst_ni || clear_i) begin
      quarters_q  <= '0;
      staged_q    <= '0;
      committed_q <= '0;
      lost_q      <= 1'b0;
      counted_q   <= '0;
      watching_q  <= 1'b0;
      passed_q    <= 1'b0;
      in_front_q  <= 1'b0;
    end else begin
      committed_q <= committed_q + (good ? staged_q : '0) - 3'(moves);
      if (commit_i) begin
        quarters_q <= '0;
        staged_q   <= '0;
        lost_q     <= 1'b0;
        if (good) counted_q <= counted_q + 32'(staged_q);
      end else if (write_i) begin
        quarters_q <= quarters_q + 1'b1;
        staged_q   <= staged_q + 3'(whole && room);
        lost_q     <= lost_q || (whole && !room);
      end
      if (starts) begin
        watching_q <= 1'b1;
        passed_q   <= 1'b0;
        word_q     <= {begun_q, data_i};
        before_q   <= staged_q + committed_q - 3'(moves);
      end else if (watching_q && !in_front_q) begin
        if (commit_i && !passed_q) begin
          watching_q <= good;
          passed_q   <= good;
        end
        before_q <= before_q - 3'(moves);
        if (moves && before_q == '0) in_front_q <= 1'b1;
      end else if (in_front_q && out_ready_i) begin
        watching_q <= 1'b0;
        in_front_q <= 1'b0;
      end
    end
    if (rst_ni && started_q) begin
      // Nothing is let out that was not committed, and what is let out is what was written.
      a_committed: assert (!moves || committed_q != '0);
      a_only_then: assert (!in_front_q || passed_q);
      a_unchanged: assert (!in_front_q || (out_valid && out_data == word_q));
      // Never more words than places, and the host is told the truth.
      a_fits: assert (staged_q + committed_q <= 3'd4);
      a_free: assert (free == 16'd4 - 16'(staged_q) - 16'(committed_q));
      a_staged: assert (staged == 16'(staged_q));
      a_count: assert (count == counted_q);
      i_quarters: assert (\u_dut.quarter_q == quarters_q && \u_dut.overrun_q == lost_q);
      i_begun: assert (\u_dut.word_q == begun_q);
      i_committed: assert (\u_dut.committed_q - head == committed_q);
      i_places: assert (\u_dut.staged_q - \u_dut.committed_q == staged_q);
      i_range: assert (staged_q <= 3'd4 && committed_q <= 3'd4);
      i_passed: assert (!watching_q || in_front_q ||
                        (passed_q ? before_q < committed_q
                                  : before_q >= committed_q && before_q < committed_q + staged_q));
      i_lies: assert (!watching_q || in_front_q || memory[lies_at] == word_q);
      i_watch: assert (!in_front_q || watching_q);
    end
  end

endmodule
