// Result words on their way to the host: none is written over before the host has acknowledged it,
// each can be read as often as the host goes back, in order and unchanged, and an acknowledgement
// that cannot be changes nothing but where reading goes on.
//
// The window is short. One word, any, is watched from when it comes from the engine: how many
// words are between the last one acknowledged and it.

module window_out (
    input logic         clk_i,
    input logic         rst_ni,
    input logic         clear_i,
    input logic         in_valid_i,
    input logic [127:0] in_data_i,
    input logic         read_i,
    input logic         ack_i,
    input logic [31:0]  ack_data_i
);

  localparam int unsigned Words = 4;

  logic in_ready, ready, empty, bad_ack;
  logic [31:0] data;
  logic [15:0] count, level;

  record_out_window #(
      .Words(Words)
  ) u_dut (
      .clk_i,
      .rst_ni,
      .clear_i,
      .in_valid_i,
      .in_ready_o(in_ready),
      .in_data_i,
      .read_i,
      .ready_o   (ready),
      .data_o    (data),
      .empty_o   (empty),
      .ack_i,
      .ack_data_i,
      .bad_ack_o (bad_ack),
      .count_o   (count),
      .level_o   (level)
  );

  (* hierconn *) wire [2:0] \u_dut.tail_q ;
  (* hierconn *) wire [2:0] \u_dut.read_q ;
  (* hierconn *) wire [2:0] \u_dut.acked_q ;
  (* hierconn *) wire [1:0] \u_dut.quarter_q ;
  (* hierconn *) wire \u_dut.fetched_q ;
  (* hierconn *) wire \u_dut.there_q ;
  (* hierconn *) wire \u_dut.empty_q ;
  (* hierconn *) wire [127:0] \u_dut.word_q ;
  (* hierconn *) wire [127:0] \u_dut.u_ram.read_data_q ;
  (* hierconn *) wire [127:0] \u_dut.u_ram.memory[0] ;
  (* hierconn *) wire [127:0] \u_dut.u_ram.memory[1] ;
  (* hierconn *) wire [127:0] \u_dut.u_ram.memory[2] ;
  (* hierconn *) wire [127:0] \u_dut.u_ram.memory[3] ;
  wire [3:0][127:0] memory = {
    \u_dut.u_ram.memory[3] , \u_dut.u_ram.memory[2] , \u_dut.u_ram.memory[1] ,
    \u_dut.u_ram.memory[0]
  };
  wire fetched = \u_dut.fetched_q ;
  wire there = \u_dut.there_q ;

  // The bus makes one access at a time and holds a read until it is answered.
  logic waits_q;
  always_comb begin
    assume (!(read_i && ack_i));
    assume (!waits_q || read_i);
  end

  // Counted from outside: words since the last one acknowledged, those of them that were read.
  logic [2:0] level_q, read_q, level_then_q, level_before_q;  // then: a clock ago; before: two
  logic [1:0] quarter_q;
  logic [15:0] count_q;
  wire takes = in_valid_i && in_ready;
  wire [15:0] step = ack_data_i[31:16] - count_q;
  wire good_ack = ack_i && ack_data_i[15:0] == ~ack_data_i[31:16] && step <= 16'(level_q);

  (* anyseq *) logic watch;
  logic watching_q;
  logic [127:0] word_q;
  logic [2:0] place_q;
  wire [1:0] lies_at = \u_dut.acked_q [1:0] + place_q[1:0];
  wire [127:0] shifted = word_q << {quarter_q, 5'd0};

  logic started_q;
  initial started_q = 1'b0;

  always_ff @(posedge clk_i) begin
    started_q    <= 1'b1;
    level_then_q <= level_q;
    level_before_q <= level_then_q;
    if (!started_q) begin
      assume (!rst_ni);
    end
    waits_q <= rst_ni && read_i && !ready;
    if (!rst_ni || clear_i) begin
      level_q    <= '0;
      read_q     <= '0;
      quarter_q  <= '0;
      count_q    <= '0;
      watching_q <= 1'b0;
    end else begin
      level_q <= level_q + 3'(takes) - (good_ack ? step[2:0] : 3'd0);
      if (ready && !empty) begin
        quarter_q <= quarter_q + 1'b1;
        read_q    <= read_q + 3'(quarter_q == 2'd3);
      end
      if (ack_i) begin
        quarter_q <= '0;
        read_q    <= '0;
      end
      if (good_ack) count_q <= ack_data_i[31:16];
      if (!watching_q && watch && takes) begin
        watching_q <= 1'b1;
        word_q     <= in_data_i;
        place_q    <= level_q - (good_ack ? step[2:0] : 3'd0);
      end else if (watching_q && good_ack) begin
        watching_q <= step <= 16'(place_q);
        place_q    <= place_q - step[2:0];
      end
    end
    if (rst_ni && started_q) begin
      // A read where the watched word lies gives it, a quarter at a time, the first one first.
      a_unchanged: assert (!watching_q || !ready || empty || read_q != place_q ||
                           data == shifted[127:96]);
      a_empty: assert (!empty || data == '0);
      a_empty_only: assert (!empty || cleared_q != '0 || read_q == level_before_q);
      // Never more words than places; the engine waits when there is none.
      a_fits: assert (level_q <= 3'd4);
      a_waits: assert (in_ready == (level_q != 3'd4));
      // The host is told the truth, and so it is when it is wrong.
      a_level: assert (level == 16'(level_q) && count == count_q);
      a_bad: assert (bad_ack == (ack_i && !good_ack));
      i_level: assert (\u_dut.tail_q - \u_dut.acked_q == level_q);
      i_read: assert (\u_dut.read_q - \u_dut.acked_q == read_q && read_q <= level_q);
      i_quarter: assert (\u_dut.quarter_q == quarter_q);
      i_begun: assert (quarter_q == 2'd0 || read_q < level_q);
      i_place: assert (!watching_q || place_q < level_q);
      i_lies: assert (!watching_q || memory[lies_at] == word_q);
      i_fetched: assert (!watching_q || !fetched || \u_dut.empty_q || read_q != place_q ||
                         \u_dut.u_ram.read_data_q == word_q);
      i_there: assert (!watching_q || !there || \u_dut.empty_q || read_q != place_q ||
                       \u_dut.word_q == word_q);
      i_has: assert (!(fetched || there) || \u_dut.empty_q || read_q < level_q);
      i_then: assert (!fetched || !\u_dut.empty_q || cleared_q[0] || read_q == level_then_q);
      i_before: assert (!there || !\u_dut.empty_q || cleared_q != '0 || read_q == level_before_q);
      i_waits: assert (!(fetched || there) || waits_q);
      i_one: assert (!(fetched && there));
    end
  end

  logic [1:0] cleared_q;
  always_ff @(posedge clk_i) cleared_q <= {cleared_q[0], clear_i || !rst_ni};

endmodule
