// What is known of the record in each bank, from its header to its judgement.
//
// A bank's record is open until its last slot left the exit stage, then waits for its digest.
// Encrypt: seed summed with digest is the tag. Decrypt: that sum is zero in all 128 bits if and
// only if the tag matched; anything else condemns the record and its bank is wiped.
//
// Ports
//   clear_i    zeroize: every record not yet handed out is refused with StatusZeroized
//   open_*     a record begins in bank issue_bank_i; with a status other than OK it is refused
//   close_i    the refused record in bank issue_bank_i was taken in whole
//   issue_active_i  the record in bank issue_bank_i is still being taken in
//   end_*      a record is through the exit stage;  digest_*  GHASH of the oldest GCM one
//   exit_bank_i, exit_*_o   the record that the exit stage is at
//   reading_*  the bank that is being read out, which no wipe may touch
//   wiping_i   banks being wiped;  wipe_o  condemned banks to wipe
//   free_o     banks that can take a new record
//   result_*   the oldest record once it was judged;  taken_i  it was taken
//   counted_o, tag_failed_o   one clock: the record taken went well; its tag did not match
//   fault_o    a digest that nobody waits for
//
// Latency 3 clocks from digest to result.

module record_ledger (
    input  logic                clk_i,
    input  logic                rst_ni,
    input  logic                clear_i,
    input  logic                issue_bank_i,
    input  logic                issue_active_i,
    input  logic                open_i,
    input  logic [  7:0]        open_status_i,
    input  logic [  3:0]        open_op_i,
    input  logic [  7:0]        open_aad_len_i,
    input  logic [ 18:0]        open_data_len_i,
    input  logic                close_i,
    input  logic                end_valid_i,
    input  logic                end_bank_i,
    input  logic [127:0]        end_seed_i,
    input  logic                digest_valid_i,
    input  logic [127:0]        digest_i,
    input  logic                exit_bank_i,
    output logic                exit_gcm_o,
    output logic                exit_decrypt_o,
    output logic [  7:0]        exit_aad_len_o,
    output logic [ 18:0]        exit_data_len_o,
    input  logic                reading_i,
    input  logic                reading_bank_i,
    input  logic [  1:0]        wiping_i,
    output logic [  1:0]        wipe_o,
    output logic [  1:0]        free_o,
    output logic                result_valid_o,
    output logic                result_bank_o,
    output logic [  7:0]        result_status_o,
    output logic [  3:0]        result_op_o,
    output logic [ 18:0]        result_data_len_o,
    output logic [127:0]        result_tag_o,
    input  logic                taken_i,
    output logic                counted_o,
    output logic                tag_failed_o,
    output logic                fault_o
);

  localparam logic [7:0] Ok = drive_crypto_pkg::StatusOk;

  typedef enum logic [2:0] {
    StFree,
    StOpen,   // being taken in, or on its way to the exit stage
    StHash,   // waits for its digest
    StCheck,  // the sum of seed and digest is in the tag register
    StJudged  // waits to be taken
  } state_e;

  logic [1:0][7:0] status;
  logic [1:0][3:0] op;
  logic [1:0][7:0] aad_len;
  logic [1:0][18:0] data_len;
  logic [1:0][127:0] tag;
  logic [1:0] hashing, judged;

  // Two records may wait for their digests; banks take turns, so the one begun earlier is the
  // other than the last one.
  logic last_ended_q, digest_bank;

  assign digest_bank = (&hashing) ? ~last_ended_q : hashing[1];

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      last_ended_q <= 1'b0;
    end else if (end_valid_i) begin
      last_ended_q <= end_bank_i;
    end
  end

  for (genvar b = 0; b < 2; b++) begin : gen_bank
    state_e state_d, state_q;
    logic [7:0] status_q;
    logic [3:0] op_q;
    logic [7:0] aad_len_q;
    logic [18:0] data_len_q;
    logic [127:0] tag_q;
    logic condemned_q;
    logic opens, closes, ends, digests, taken, is_gcm, is_decrypt, mismatch, failed, cut;

    assign opens      = open_i && issue_bank_i == 1'(b);
    assign closes     = close_i && issue_bank_i == 1'(b);
    assign ends       = end_valid_i && end_bank_i == 1'(b);
    assign digests    = digest_valid_i && hashing[b] && digest_bank == 1'(b);
    assign taken      = taken_i && result_bank_o == 1'(b);
    assign is_decrypt = op_q == drive_crypto_pkg::OpDecrypt;
    assign is_gcm     = op_q != drive_crypto_pkg::OpBypass;
    assign mismatch   = is_decrypt && tag_q != '0;
    assign cut        = clear_i && state_q != StFree;

    always_comb begin
      state_d = state_q;
      unique case (state_q)
        StFree: begin
          if (opens) begin
            state_d = StOpen;
          end
        end
        StOpen: begin
          if (closes) begin
            state_d = StJudged;
          end else if (clear_i) begin
            state_d = issue_active_i && issue_bank_i == 1'(b) ? StOpen : StJudged;
          end else if (ends) begin
            state_d = is_gcm ? StHash : StJudged;
          end
        end
        StHash: begin
          if (clear_i) begin
            state_d = StJudged;
          end else if (digests) begin
            state_d = StCheck;
          end
        end
        StCheck: state_d = StJudged;
        StJudged: begin
          if (taken) begin
            state_d = StFree;
          end
        end
        default: state_d = StFree;
      endcase
    end

    always_ff @(posedge clk_i or negedge rst_ni) begin
      if (!rst_ni) begin
        state_q <= StFree;
      end else begin
        state_q <= state_d;
      end
    end

    always_ff @(posedge clk_i or negedge rst_ni) begin
      if (!rst_ni) begin
        op_q       <= '0;
        aad_len_q  <= '0;
        data_len_q <= '0;
      end else if (opens) begin
        op_q       <= open_op_i;
        aad_len_q  <= open_aad_len_i;
        data_len_q <= open_data_len_i;
      end
    end

    always_ff @(posedge clk_i or negedge rst_ni) begin
      if (!rst_ni) begin
        status_q <= '0;
      end else if (opens) begin
        status_q <= open_status_i;
      end else if (cut && status_q == Ok) begin
        status_q <= drive_crypto_pkg::StatusZeroized;
      end else if (state_q == StCheck && mismatch) begin
        status_q <= drive_crypto_pkg::StatusTagMismatch;
      end
    end

    // A sum that is not zero would tell a forger the right tag: it goes at once.
    always_ff @(posedge clk_i or negedge rst_ni) begin
      if (!rst_ni) begin
        tag_q <= '0;
      end else if (clear_i || opens || (state_q == StCheck && is_decrypt)) begin
        tag_q <= '0;
      end else if (ends && is_gcm) begin
        tag_q <= end_seed_i;
      end else if (digests) begin
        tag_q <= tag_q ^ digest_i;
      end
    end

    // The record before it in this bank may still be on its way out: then the wipe waits.
    always_ff @(posedge clk_i or negedge rst_ni) begin
      if (!rst_ni) begin
        condemned_q <= 1'b0;
      end else if (clear_i || wipe_o[b]) begin
        condemned_q <= 1'b0;
      end else if (failed) begin
        condemned_q <= 1'b1;
      end
    end

    assign hashing[b]  = state_q == StHash;
    assign judged[b]   = state_q == StJudged;
    assign failed      = state_q == StCheck && mismatch;
    assign wipe_o[b]   = condemned_q && !(reading_i && reading_bank_i == 1'(b));
    assign free_o[b]   = state_q == StFree && !condemned_q && !wiping_i[b];
    assign status[b]   = status_q;
    assign op[b]       = op_q;
    assign aad_len[b]  = aad_len_q;
    assign data_len[b] = data_len_q;
    assign tag[b]      = tag_q;
  end

  // Results leave in the order in which records came: banks take turns.
  logic turn_q;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      turn_q <= 1'b0;
    end else if (taken_i) begin
      turn_q <= ~turn_q;
    end
  end

  assign result_valid_o    = judged[turn_q];
  assign result_bank_o     = turn_q;
  assign result_status_o   = status[turn_q];
  assign result_op_o       = op[turn_q];
  assign result_data_len_o = data_len[turn_q];
  assign result_tag_o      = tag[turn_q];

  assign exit_gcm_o      = op[exit_bank_i] != drive_crypto_pkg::OpBypass;
  assign exit_decrypt_o  = op[exit_bank_i] == drive_crypto_pkg::OpDecrypt;
  assign exit_aad_len_o  = aad_len[exit_bank_i];
  assign exit_data_len_o = data_len[exit_bank_i];

  assign counted_o    = taken_i && result_status_o == Ok;
  assign tag_failed_o = taken_i && result_status_o == drive_crypto_pkg::StatusTagMismatch;
  assign fault_o      = digest_valid_i && hashing == 2'b00 && !clear_i;

endmodule
