  // ---- Slow in one way, by +slow=N: for the tests of the rates ----------------------------------

  int unsigned slow;
  initial if (!$value$plusargs("slow=%d", slow)) slow = 0;

  logic head_q, hold, five_percent, valid_q;
  logic [3:0] op_q, op_before_q;
  logic [7:0] aad_q;
  logic [18:0] length_q, length_before_q;
  int unsigned clocks_q, keys_q, behind_q, records_q, in_record_q, stall_q;
  wire moves = in_valid & in_ready;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      head_q   <= 1'b1;
      clocks_q <= 0;
      keys_q   <= 0;
      behind_q <= 0;
      records_q <= 0;
      in_record_q <= 0;
      stall_q     <= 0;
      op_before_q <= '0;
      valid_q  <= 1'b0;
      op_q     <= '0;
      aad_q    <= '0;
      length_q <= '0;
      length_before_q <= '0;
    end else begin
      clocks_q <= clocks_q + 1;
      valid_q  <= key_valid;
      in_record_q <= in_record_q + 1;
      if (stall_q != 0) stall_q <= stall_q - 1;
      if (key_valid & ~valid_q) keys_q <= keys_q + 1;
      if (~issue_active & ledger_empty) behind_q <= 0;
      else if (moves & in_last) behind_q <= behind_q + 1;
      if (moves) begin
        head_q <= in_last;
        if (in_last) records_q <= records_q + 1;
        if (in_last && records_q % 1000 == 999) stall_q <= 1000;
        if (head_q) begin
          in_record_q <= 0;
          op_before_q <= op_q;
          op_q     <= in_data[127:124];
          aad_q    <= in_data[123:116];
          length_q <= in_data[114:96];
          length_before_q <= length_q;
        end
      end
    end
  end

  assign five_percent = clocks_q % 20 == 0;
  always_comb begin
    case (slow)
      1, 24: hold = op_q == 4'd1 && clocks_q % 8 != 0;
      2: hold = five_percent;
      3, 26: hold = op_q == 4'd1 && clocks_q % 20000 < 1000;
      4: hold = clocks_q % 4000000 >= 800000 && clocks_q % 4000000 < 1000000;
      5: hold = op_q == 4'd2 && five_percent;
      6: hold = length_q > 65536 && five_percent;
      7: hold = aad_q != 0 && five_percent;
      8: hold = keys_q > 2 && five_percent;
      9: hold = behind_q != 0 && five_percent;
      10: hold = length_q % 16 != 0 && five_percent;
      11: hold = op_q == 4'd3 && five_percent;
      12: hold = stall_q != 0;
      13: hold = op_q == 4'd2 && op_before_q == 4'd1 && five_percent;
      14: hold = op_q == 4'd1 && length_q == 1000 && five_percent;
      15: hold = in_record_q < records_q / 100;
      16: hold = clocks_q % 2000 < 30;
      17: hold = clocks_q % 200 == 0;
      18: hold = records_q % 100 == 50 && in_record_q == 1;
      19: hold = op_q == 4'd1 && length_q >= 3000 && length_q < 3900 && clocks_q % 2 == 0;
      20: hold = op_q == 4'd1 && length_q >= 20000 && length_q < 30000 && clocks_q % 4 == 0;
      21: hold = op_q == 4'd2 && length_q < length_before_q && five_percent;
      22: hold = records_q % 64 == 63 && clocks_q % 2 == 0;
      default: hold = 1'b0;
    endcase
  end

  // The counter of busy clocks says less than passed.
  logic uncounted;
  assign uncounted = (slow == 24 && hold) || (slow == 25 && clocks_q % 2 == 0);

  // The first result of large records comes late, and those after it follow at full rate.
  logic late, result_made;
  int unsigned late_q;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) late_q <= 0;
    else if (~issue_active & ledger_empty & ~result_made) late_q <= 0;
    else if (late & result_made) late_q <= late_q + 1;
  end

  always_comb begin
    case (slow)
      23, 27: late = ~test_active && length_q > 65536 && late_q < 5000;
      28: late = ~test_active && ~in_valid && clocks_q % 2 == 0;
      29: late = ~test_active && ~in_valid && five_percent;
      default: late = 1'b0;
    endcase
  end
  assign out_valid = result_made & ~late;

