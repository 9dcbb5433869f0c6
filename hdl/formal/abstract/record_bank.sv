// Stands for record_bank where what it stores does not matter: any outputs at any time.

module record_bank #(
    parameter int unsigned Words = 16384
) (
    input  logic                     clk_i,
    input  logic                     rst_ni,
    input  logic                     wipe_i,
    output logic                     wiping_o,
    input  logic                     write_i,
    input  logic [$clog2(Words)-1:0] write_index_i,
    input  logic [127:0]             write_data_i,
    input  logic                     read_i,
    input  logic [$clog2(Words)-1:0] read_index_i,
    output logic [127:0]             read_data_o
);

  (* anyseq *) logic wiping;
  (* anyseq *) logic [127:0] read_data;

  assign wiping_o    = wiping;
  assign read_data_o = read_data;

endmodule
