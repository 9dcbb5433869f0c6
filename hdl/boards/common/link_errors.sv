// Counts what goes wrong on the link, a clock later; each counter stops at 255.

module link_errors (
    input  logic            clk_i,
    input  logic            rst_ni,
    input  logic [3:0]      event_i,
    output logic [3:0][7:0] count_o
);

  logic [3:0] event_q;
  logic [3:0][7:0] count_q;

  assign count_o = count_q;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      event_q <= '0;
    end else begin
      event_q <= event_i;
    end
  end

  for (genvar i = 0; i < 4; i++) begin : gen_count
    always_ff @(posedge clk_i or negedge rst_ni) begin
      if (!rst_ni) begin
        count_q[i] <= '0;
      end else if (event_q[i] && count_q[i] != 8'hff) begin
        count_q[i] <= count_q[i] + 1'b1;
      end
    end
  end

endmodule
