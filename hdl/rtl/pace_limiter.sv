// Lets data words in at no more than a given rate: stands for the tape channel behind the engine.
//
// A bucket of 16 words fills at rate_i / 65536 words a clock. Nothing depends on anything at once:
// what was taken is known a clock later, and the gate opens two clocks after that, so it stays shut
// until there are four words in the bucket, and none is ever taken that was not there.
//
// Ports
//   rate_i   words a clock, times 65536; 0 means no limit
//   taken_i  a data word was taken in, a clock ago
//   open_o   a data word may be taken in

module pace_limiter (
    input  logic        clk_i,
    input  logic        rst_ni,
    input  logic [15:0] rate_i,
    input  logic        taken_i,
    output logic        open_o
);

  localparam logic [20:0] Word = 21'h01_0000;
  localparam logic [20:0] Bucket = 21'h10_0000;

  logic [20:0] level_q, level_d;
  logic unlimited_q, open_q;

  // The level never passes the bucket by more than one step, so 21 bits hold it.
  always_comb begin
    if (unlimited_q) begin
      level_d = Bucket;
    end else if (taken_i) begin
      level_d = level_q + 21'(rate_i) - Word;
    end else if (level_q > Bucket) begin
      level_d = Bucket;
    end else begin
      level_d = level_q + 21'(rate_i);
    end
  end

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      level_q     <= Bucket;
      unlimited_q <= 1'b1;
      open_q      <= 1'b1;
    end else begin
      level_q     <= level_d;
      unlimited_q <= rate_i == '0;
      open_q      <= unlimited_q || level_q >= 4 * Word;
    end
  end

  assign open_o = open_q;

endmodule
