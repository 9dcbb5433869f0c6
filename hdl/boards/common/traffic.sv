// Traffic generator and checker: records at the engine's own rate, however slow the board's link is.
//
// Sends records_i records of bytes_i bytes (1 or more) with aad_bytes_i of AAD as fast as the engine
// takes them and takes their results at once. What it sends is known to the host:
//
//   IV of record r          ffffffff || seed || r     (32 bits each)
//   AAD word j of record r  ~seed || ~r || ~j || j    (32 bits each)
//   data word j of record r seed || r || j || ~j      (32 bits each)
//   expected tag            tag_i
//
// where r counts from 0 with ENCRYPT and BYPASS and stays 0 with DECRYPT, whose data and tag are
// then the same in every record. check_o is over all words of all results, headers included:
// check = rotate left by one(check) ^ word. The host computes the same.
//
// After every key_every_i records (0: never) it waits for their results and has the sealed key loaded
// that the host gave to the board: the first ones are under the key that the host had loaded itself.
//
// Ports
//   start_i                begin, one clock; busy_o until the last result has come
//   stop_i                 drop everything under way
//   key_start_o            load the key, one clock; key_busy_i until it is done
//   good_o, bad_o          results with and without status OK since start
//   out_*                  to the engine;  in_*: from the engine, never stalled
//
// Throughput: one word a clock, no bubble between records.

module traffic (
    input  logic         clk_i,
    input  logic         rst_ni,
    input  logic         start_i,
    input  logic         stop_i,
    output logic         busy_o,
    input  logic [  3:0] op_i,
    input  logic [  7:0] aad_bytes_i,
    input  logic [ 18:0] bytes_i,
    input  logic [ 31:0] records_i,
    input  logic [ 31:0] seed_i,
    input  logic [127:0] tag_i,
    input  logic [ 31:0] key_every_i,
    output logic         key_start_o,
    input  logic         key_busy_i,
    output logic [ 31:0] good_o,
    output logic [ 31:0] bad_o,
    output logic [127:0] check_o,
    output logic         out_valid_o,
    input  logic         out_ready_i,
    output logic [127:0] out_data_o,
    input  logic         in_valid_i,
    input  logic [127:0] in_data_i,
    input  logic         in_last_i
);

  localparam logic [3:0] OpDecrypt = 4'd2;

  typedef enum logic [2:0] {
    Idle,
    Header,
    Aad,
    Data,
    Tag,
    Drain,   // waits for the results before a key is loaded
    Load
  } state_e;

  state_e state_q;
  logic [31:0] left_q, number_q, awaited_q, good_q, bad_q;
  logic [31:0] key_left_q;  // records to the next load
  logic [14:0] word_q, last_word_q;
  logic [3:0] last_aad_q;
  logic [127:0] check_q;
  logic first_q, busy_q, record_ends;
  logic [31:0] word;

  assign word        = 32'(word_q);
  assign out_valid_o = state_q == Header || state_q == Aad || state_q == Data || state_q == Tag;
  assign key_start_o = state_q == Drain && awaited_q == left_q;
  assign record_ends = state_q == Tag || (state_q == Data && word_q == last_word_q &&
                                          op_i != OpDecrypt);

  always_comb begin
    unique case (state_q)
      Header:  out_data_o = {op_i, aad_bytes_i, 1'b0, bytes_i, 32'hffff_ffff, seed_i, number_q};
      Aad:     out_data_o = {~seed_i, ~number_q, ~word, word};
      Data:    out_data_o = {seed_i, number_q, word, ~word};
      Tag:     out_data_o = tag_i;
      default: out_data_o = '0;
    endcase
  end

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      state_q     <= Idle;
      left_q      <= '0;
      number_q    <= '0;
      word_q      <= '0;
      last_word_q <= '0;
      last_aad_q  <= '0;
      key_left_q  <= '0;
    end else if (stop_i) begin
      state_q <= Idle;
    end else if (state_q == Idle) begin
      if (start_i && !busy_q && records_i != '0) begin
        state_q     <= Header;
        left_q      <= records_i;
        number_q    <= '0;
        last_word_q <= 15'((20'(bytes_i) + 20'd15) >> 4) - 15'd1;
        last_aad_q  <= 4'((9'(aad_bytes_i) + 9'd15) >> 4) - 4'd1;
        key_left_q  <= key_every_i;
      end
    end else if (state_q == Drain) begin
      if (key_start_o) begin
        state_q    <= Load;
        key_left_q <= key_every_i;
      end
    end else if (state_q == Load) begin
      if (!key_busy_i) state_q <= Header;
    end else if (out_ready_i) begin
      if (state_q == Header) begin
        state_q <= aad_bytes_i == '0 ? Data : Aad;
        word_q  <= '0;
      end else if (state_q == Aad) begin
        word_q <= word_q + 1'b1;
        if (word_q == 15'(last_aad_q)) begin
          state_q <= Data;
          word_q  <= '0;
        end
      end else begin
        word_q <= word_q + 1'b1;
        if (state_q == Data && word_q == last_word_q) state_q <= Tag;
        if (record_ends) begin
          state_q <= left_q == 32'd1 ? Idle : key_left_q == 32'd1 ? Drain : Header;
          left_q  <= left_q - 1'b1;
          key_left_q <= key_left_q - 1'b1;
          if (op_i != OpDecrypt) number_q <= number_q + 1'b1;
        end
      end
    end
  end

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      busy_q    <= 1'b0;
      awaited_q <= '0;
      good_q    <= '0;
      bad_q     <= '0;
      check_q   <= '0;
      first_q   <= 1'b1;
    end else if (stop_i) begin
      busy_q <= 1'b0;
    end else if (!busy_q) begin
      if (start_i && records_i != '0) begin
        busy_q    <= 1'b1;
        awaited_q <= records_i;
        good_q    <= '0;
        bad_q     <= '0;
        check_q   <= '0;
        first_q   <= 1'b1;
      end
    end else if (in_valid_i) begin
      check_q <= {check_q[126:0], check_q[127]} ^ in_data_i;
      first_q <= in_last_i;
      if (first_q) begin
        if (in_data_i[127:120] == '0) good_q <= good_q + 1'b1;
        else bad_q <= bad_q + 1'b1;
      end
      if (in_last_i) begin
        awaited_q <= awaited_q - 1'b1;
        if (awaited_q == 32'd1) busy_q <= 1'b0;
      end
    end
  end

  assign busy_o  = busy_q;
  assign good_o  = good_q;
  assign bad_o   = bad_q;
  assign check_o = check_q;

endmodule
