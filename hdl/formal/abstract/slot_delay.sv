// Stands for slot_delay where its length and what is in the slots do not matter: kinds come out
// after four clocks, with any data whose parity is right.

module slot_delay #(
    parameter int unsigned Latency = 29
) (
    input  logic                   clk_i,
    input  logic                   rst_ni,
    input  logic                   clear_i,
    input  logic [2:0]             kind_i,
    input  record_pkg::slot_t      slot_i,
    output logic [2:0]             kind_o,
    output record_pkg::slot_t      slot_o,
    output logic                   wrong_o
);

  logic [3:0][2:0] kinds_q;  // [0] is the youngest
  (* anyseq *) logic [132:0] slot;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      kinds_q <= '0;
    end else if (clear_i) begin
      kinds_q <= '0;
    end else begin
      kinds_q <= {kinds_q[2:0], kind_i};
    end
  end

  assign kind_o = kinds_q[3];
  assign slot_o = {
    ^slot[132:128], ^slot[127:96], ^slot[95:64], ^slot[63:32], ^slot[31:0], slot
  };
  assign wrong_o = 1'b0;

endmodule
