// Lets data words in at no more than a given rate: stands for the tape channel behind the engine.
//
// A bucket of 16 words fills at rate_i / 65536 words a clock.
//
// Ports
//   rate_i   words a clock, times 65536; 0 means no limit
//   taken_i  a data word was taken in
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
  logic unlimited;

  assign unlimited = rate_i == '0;

  // The level never passes the bucket by more than one step, so 21 bits hold it.
  always_comb begin
    level_d = level_q + 21'(rate_i);
    if (taken_i) begin
      level_d = level_d - Word;
    end
    if (unlimited || level_d > Bucket) begin
      level_d = Bucket;
    end
  end

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      level_q <= Bucket;
    end else begin
      level_q <= level_d;
    end
  end

  assign open_o = unlimited || level_q >= Word;

endmodule
