// Unwraps one 256-bit key: AES key wrap with a 256-bit key-encryption key.
//
// RFC 3394 section 2.2.2 with the initial value of section 2.2.3.1; KW-AD of SP 800-38F section
// 6.2. All 24 steps are always done and the check looks at all 64 bits at once, so neither time
// nor anything else but ok_o tells where a blob went wrong. When it ends, the key-encryption key
// and all intermediate values are zeroed.
//
// Ports
//   clear_i     stops and zeroes everything, at one edge
//   start_i     takes kek_i and blob_i (byte 0 leftmost); not while busy. Zeroes key_o
//   done_o      one clock: ok_o and key_o hold the outcome, until the next start or clear
//   ok_o        the integrity check passed
//   key_o       the key if it did, else zero
//   wrong_o     a register of control, the verdict among them, is not what it was set to
//
// Latency 1,139 clocks from start_i to done_o, throughput one blob at a time.

module key_unwrap (
    input  logic         clk_i,
    input  logic         rst_ni,
    input  logic         clear_i,
    input  logic         start_i,
    input  logic [255:0] kek_i,
    input  logic [319:0] blob_i,
    output logic         busy_o,
    output logic         done_o,
    output logic         ok_o,
    output logic [255:0] key_o,
    output logic         wrong_o
);

  localparam logic [63:0] InitialValue = 64'ha6a6a6a6a6a6a6a6;
  localparam logic [4:0] Steps = 5'd24;  // six times four 64-bit pieces

  typedef enum logic [2:0] {
    StIdle,
    StExpand,
    StStep,
    StDecipher,
    StJudge
  } state_e;

  state_e state_q, state_d;
  logic [4:0] step_q, step_d;  // t of the RFC, 24 down to 1
  logic [63:0] a_q;  // A of the RFC
  logic [3:0][63:0] pieces_q;  // R[1..4], rotated so that the next to be done is [0]
  logic [255:0] key_q;
  logic ok_q, ok_d, done_q, done_d;

  logic key_done, key_wrong, cipher_done, wrong_control;
  logic [127:0] cipher_block;
  logic judge;

  assign judge = state_q == StJudge;

  // No asynchronous reset on data: it leaves a clear to be done at the first edge.
  logic wipe_q, wipe;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      wipe_q <= 1'b1;
    end else begin
      wipe_q <= 1'b0;
    end
  end

  assign wipe = clear_i | wipe_q;

  aes_inv_cipher u_inv_cipher (
      .clk_i,
      .rst_ni,
      .clear_i    (clear_i | judge),
      .key_start_i(start_i),
      .key_i      (kek_i),
      .key_done_o (key_done),
      .wrong_o    (key_wrong),
      .start_i    (state_q == StStep),
      .block_i    ({a_q ^ {59'h0, step_q}, pieces_q[0]}),
      .done_o     (cipher_done),
      .block_o    (cipher_block)
  );

  always_comb begin
    state_d = state_q;
    step_d  = step_q;
    ok_d    = ok_q;
    done_d  = 1'b0;
    unique case (state_q)
      StIdle: begin
        if (start_i) begin
          state_d = StExpand;
          step_d  = Steps;
          ok_d    = 1'b0;
        end
      end
      StExpand: begin
        if (key_done) begin
          state_d = StStep;
        end
      end
      StStep: state_d = StDecipher;
      StDecipher: begin
        if (cipher_done) begin
          step_d  = step_q - 5'd1;
          state_d = step_q == 5'd1 ? StJudge : StStep;
        end
      end
      StJudge: begin
        state_d = StIdle;
        ok_d    = a_q == InitialValue;
        done_d  = 1'b1;
      end
      default: state_d = StIdle;
    endcase
    if (wipe) begin
      state_d = StIdle;
      step_d  = '0;
      ok_d    = 1'b0;
      done_d  = 1'b0;
    end
  end

  always_ff @(posedge clk_i) begin
    state_q <= state_d;
    step_q  <= step_d;
    ok_q    <= ok_d;
    done_q  <= done_d;
    if (wipe) begin
      a_q      <= '0;
      pieces_q <= '0;
      key_q    <= '0;
    end else if (state_q == StIdle && start_i) begin
      a_q         <= blob_i[319:256];
      // R[4] is done first, R[1] last: R[4] at [0].
      pieces_q[3] <= blob_i[255:192];
      pieces_q[2] <= blob_i[191:128];
      pieces_q[1] <= blob_i[127:64];
      pieces_q[0] <= blob_i[63:0];
      key_q       <= '0;
    end else if (state_q == StDecipher && cipher_done) begin
      a_q      <= cipher_block[127:64];
      pieces_q <= {cipher_block[63:0], pieces_q[3:1]};
    end else if (judge) begin
      // Twenty-four rotations by one of four: R[4] is at [0] again.
      key_q    <= a_q == InitialValue ? pieces_q : '0;
      a_q      <= '0;
      pieces_q <= '0;
    end
  end

  // Where a flipped bit would accept a key that was refused.
  control_twin #(
      .Width($bits({state_q, step_q, ok_q, done_q}))
  ) u_twin (
      .clk_i,
      .rst_ni,
      .next_i ({state_d, step_d, ok_d, done_d}),
      .held_i ({state_q, step_q, ok_q, done_q}),
      .wrong_o(wrong_control)
  );

  assign wrong_o = wrong_control | key_wrong;
  assign busy_o = state_q != StIdle;
  assign done_o = done_q;
  assign ok_o   = ok_q;
  assign key_o  = key_q;

endmodule
