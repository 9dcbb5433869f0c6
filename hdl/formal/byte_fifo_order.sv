// Bytes leave the FIFO in the order in which they came, each once, unchanged, and none is written
// over before it has left; one that finds no room is reported.
//
// One byte, any, is watched from when it is taken in: how many are before it, and where it lies.

module byte_fifo_order (
    input logic       clk_i,
    input logic       rst_ni,
    input logic       valid_i,
    input logic [7:0] data_i,
    input logic       ready_i
);

  localparam int unsigned Depth = 8;
  localparam int unsigned IndexBits = 3;

  logic lost, valid;
  logic [7:0] data;

  byte_fifo #(
      .Depth(Depth)
  ) u_dut (
      .clk_i,
      .rst_ni,
      .valid_i,
      .data_i,
      .lost_o (lost),
      .valid_o(valid),
      .ready_i,
      .data_o (data)
  );

  (* hierconn *) wire [IndexBits:0] \u_dut.head_q ;
  (* hierconn *) wire [IndexBits:0] \u_dut.tail_q ;

  wire takes = valid_i && !lost;
  wire leaves = valid && ready_i;

  (* anyseq *) logic watch;  // watch the byte that is being taken in
  logic watching_q;
  logic [7:0] watched_q;
  logic [IndexBits:0] before_q;  // bytes that leave before it
  logic [IndexBits:0] level_q;  // bytes inside, as counted from outside
  wire [IndexBits-1:0] lies_at = \u_dut.head_q [IndexBits-1:0] + before_q[IndexBits-1:0];

  (* hierconn *) wire [7:0] \u_dut.memory[0] ;
  (* hierconn *) wire [7:0] \u_dut.memory[1] ;
  (* hierconn *) wire [7:0] \u_dut.memory[2] ;
  (* hierconn *) wire [7:0] \u_dut.memory[3] ;
  (* hierconn *) wire [7:0] \u_dut.memory[4] ;
  (* hierconn *) wire [7:0] \u_dut.memory[5] ;
  (* hierconn *) wire [7:0] \u_dut.memory[6] ;
  (* hierconn *) wire [7:0] \u_dut.memory[7] ;
  wire [Depth-1:0][7:0] memory = {
    \u_dut.memory[7] , \u_dut.memory[6] , \u_dut.memory[5] , \u_dut.memory[4] ,
    \u_dut.memory[3] , \u_dut.memory[2] , \u_dut.memory[1] , \u_dut.memory[0]
  };

  logic started_q;
  initial started_q = 1'b0;

  always_ff @(posedge clk_i) begin
    started_q <= 1'b1;
    if (!started_q) begin
      assume (!rst_ni);
    end
    if (!rst_ni) begin
      watching_q <= 1'b0;
      level_q    <= '0;
    end else begin
      level_q <= level_q + (IndexBits + 1)'(takes) - (IndexBits + 1)'(leaves);
      if (!watching_q && watch && takes) begin
        watching_q <= 1'b1;
        watched_q  <= data_i;
        before_q   <= level_q - (IndexBits + 1)'(leaves);
      end else if (watching_q && leaves) begin
        watching_q <= before_q != '0;
        before_q   <= before_q - 1'b1;
      end
    end
    if (rst_ni && started_q) begin
      a_unchanged: assert (!watching_q || before_q != '0 || (valid && data == watched_q));
      a_fits: assert (level_q <= Depth);
      a_room: assert (!lost || level_q == Depth);
      a_there: assert (valid == (level_q != '0));
      i_level: assert (\u_dut.tail_q - \u_dut.head_q == level_q);
      i_before: assert (!watching_q || before_q < level_q);
      i_lies: assert (!watching_q || memory[lies_at] == watched_q);
    end
  end

endmodule
