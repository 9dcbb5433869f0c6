// Moves whole records between the simulation's host and the engine's framed stream, one 16-byte
// word a clock each way, without waking Python on every clock.
//
// Words come from and go to queues in record_port.cpp.  `wake_o` pulses for one clock when what
// the host waits for has come, when `call_i` says that the host has something else to ask, or when,
// while `watch_i` is set, no word moved for CycleLimit clocks: then the engine hangs, and the host
// says so.
//
// Ports: clk_i, rst_ni; in_* to the engine, out_* from it, both valid/ready.
// Latency: one clock each way.  Throughput: one word a clock each way.

module record_port #(
    parameter int unsigned CycleLimit = 1_000_000
) (
    input  logic         clk_i,
    input  logic         rst_ni,
    input  logic         watch_i,
    input  logic         call_i,
    output logic         wake_o,
    output logic         in_valid_o,
    input  logic         in_ready_i,
    output logic [127:0] in_data_o,
    output logic         in_last_o,
    input  logic         out_valid_i,
    output logic         out_ready_o,
    input  logic [127:0] out_data_i,
    input  logic         out_last_i
);

  // Next word for the engine, and whether it ends its frame; false when the host has queued none.
  import "DPI-C" function bit record_port_next(
    output bit [127:0] word,
    output bit         last
  );
  // A word from the engine; true when the host's wait is over.
  import "DPI-C" function bit record_port_take(
    input bit [127:0] word,
    input bit         last
  );

  logic [31:0] idle_q;

  assign out_ready_o = 1'b1;

  // verilator lint_off BLKSEQ
  always_ff @(posedge clk_i or negedge rst_ni) begin
    bit [127:0] next_word;
    bit         next_valid;
    bit         next_last;
    bit         wake;
    if (!rst_ni) begin
      in_valid_o <= 1'b0;
      in_data_o  <= '0;
      in_last_o  <= 1'b0;
      wake_o     <= 1'b0;
      idle_q     <= '0;
    end else begin
      wake = call_i;
      if (!in_valid_o || in_ready_i) begin
        next_valid = record_port_next(next_word, next_last);
        in_valid_o <= next_valid;
        in_last_o  <= next_last;
        in_data_o  <= next_word;
      end
      if (out_valid_i && record_port_take(out_data_i, out_last_i)) wake = 1'b1;
      if (!watch_i || out_valid_i || (in_valid_o && in_ready_i)) begin
        idle_q <= '0;
      end else if (idle_q == CycleLimit) begin
        idle_q <= '0;
        wake = 1'b1;
      end else begin
        idle_q <= idle_q + 1;
      end
      wake_o <= wake;
    end
  end
  // verilator lint_on BLKSEQ

endmodule
