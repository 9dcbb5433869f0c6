// Two banks of memory: one record is written while the one before it is read.
//
// Ports
//   wipe_i[b]  start wiping bank b;  wiping_o[b]  under way
//   write_*, read_*   see record_bank; *_bank_i says which
//
// Latency 1 clock to read, throughput one word a clock each way.

module record_buffer #(
    parameter int unsigned BankWords = 16384
) (
    input  logic                          clk_i,
    input  logic                          rst_ni,
    input  logic [1:0]                    wipe_i,
    output logic [1:0]                    wiping_o,
    input  logic                          write_i,
    input  logic                          write_bank_i,
    input  logic [$clog2(BankWords)-1:0]  write_index_i,
    input  logic [127:0]                  write_data_i,
    input  logic                          read_i,
    input  logic                          read_bank_i,
    input  logic [$clog2(BankWords)-1:0]  read_index_i,
    output logic [127:0]                  read_data_o
);

  logic [1:0][127:0] read_data;
  logic read_bank_q;

  for (genvar b = 0; b < 2; b++) begin : gen_bank
    record_bank #(
        .Words(BankWords)
    ) u_bank (
        .clk_i,
        .rst_ni,
        .wipe_i(wipe_i[b]),
        .wiping_o(wiping_o[b]),
        .write_i(write_i && write_bank_i == 1'(b)),
        .write_index_i,
        .write_data_i,
        .read_i(read_i && read_bank_i == 1'(b)),
        .read_index_i,
        .read_data_o(read_data[b])
    );
  end

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      read_bank_q <= 1'b0;
    end else if (read_i) begin
      read_bank_q <= read_bank_i;
    end
  end

  assign read_data_o = read_data[read_bank_q];

endmodule
