// Memory of a record window: one write port, one read port with a registered output.

module window_ram #(
    parameter int unsigned Words = 512  // a power of two
) (
    input  logic                     clk_i,
    input  logic                     write_i,
    input  logic [$clog2(Words)-1:0] write_index_i,
    input  logic [            127:0] write_data_i,
    input  logic                     read_i,
    input  logic [$clog2(Words)-1:0] read_index_i,
    output logic [            127:0] read_data_o
);

  // What a read of the word being written gives is never looked at: no logic for that case.
  (* no_rw_check *)
  logic [127:0] memory[Words];
  logic [127:0] read_data_q;

  assign read_data_o = read_data_q;

  always_ff @(posedge clk_i) begin
    if (write_i) memory[write_index_i] <= write_data_i;
    if (read_i) read_data_q <= memory[read_index_i];
  end

endmodule
