// A slot leaves the delay line after its latency, unchanged, unless it was cleared; and when clear
// was held for the latency, nothing is left in the line.
//
// The line is short. One slot, any, is watched from when it comes in: its age, and where it lies.

module slot_delay_order (
    input logic              clk_i,
    input logic              rst_ni,
    input logic              clear_i,
    input logic [2:0]        kind_i,
    input logic [137:0]      slot_i
);

  localparam int unsigned Latency = 7;
  localparam int unsigned Depth = Latency - 1;  // places; as in the design not a power of two
  localparam logic [2:0] None = record_pkg::SlotNone;

  logic [2:0] kind;
  logic [137:0] slot;

  slot_delay #(
      .Latency(Latency)
  ) u_dut (
      .clk_i,
      .rst_ni,
      .clear_i,
      .kind_i,
      .slot_i,
      .kind_o(kind),
      .slot_o(slot)
  );

  (* hierconn *) wire [2:0] \u_dut.place_q ;
  (* hierconn *) wire [Latency-1:0][2:0] \u_dut.kinds_q ;
  (* hierconn *) wire [137:0] \u_dut.slot_q ;
  (* hierconn *) wire [137:0] \u_dut.memory[0] ;
  (* hierconn *) wire [137:0] \u_dut.memory[1] ;
  (* hierconn *) wire [137:0] \u_dut.memory[2] ;
  (* hierconn *) wire [137:0] \u_dut.memory[3] ;
  (* hierconn *) wire [137:0] \u_dut.memory[4] ;
  (* hierconn *) wire [137:0] \u_dut.memory[5] ;
  wire [Depth-1:0][137:0] memory = {
    \u_dut.memory[5] , \u_dut.memory[4] , \u_dut.memory[3] , \u_dut.memory[2] ,
    \u_dut.memory[1] , \u_dut.memory[0]
  };
  wire [2:0] place = \u_dut.place_q ;

  (* anyseq *) logic watch;
  logic watching_q;
  logic [2:0] age_q;  // clocks since the watched slot came in
  logic [2:0] kind_q, at_q;
  logic [137:0] slot_q;
  logic [2:0] clears_q;  // clocks that clear has been held, Latency at most

  // Clocks since a place was written, if it was: the last place is one clock old.
  function automatic logic [2:0] age_of(input logic [2:0] now, input logic [2:0] at);
    age_of = now > at ? now - at : now + 3'(Depth) - at;
  endfunction

  logic [Depth-1:0] wiped;
  for (genvar i = 0; i < Depth; i++) begin : gen_place
    assign wiped[i] = age_of(place, 3'(i)) > clears_q || memory[i] == '0;
  end

  logic started_q;
  initial started_q = 1'b0;

  always_ff @(posedge clk_i) begin
    started_q <= 1'b1;
    if (!started_q) begin
      assume (!rst_ni);
    end
    if (!rst_ni) begin
      watching_q <= 1'b0;
      age_q      <= '0;
      clears_q   <= '0;
    end else begin
      clears_q <= !clear_i ? '0 : clears_q == Latency ? clears_q : clears_q + 1'b1;
      age_q    <= age_q + 1'b1;
      if (clear_i || age_q == Latency) begin
        watching_q <= 1'b0;
      end
      if (!clear_i && watch && (!watching_q || age_q == Latency)) begin
        watching_q <= 1'b1;
        age_q      <= 3'd1;
        kind_q     <= kind_i;
        slot_q     <= slot_i;
        at_q       <= place;
      end
    end
    if (rst_ni && started_q) begin
      a_kind: assert (!watching_q || age_q != Latency || kind == kind_q);
      a_slot: assert (!watching_q || age_q != Latency || kind == None || slot == slot_q);
      // After clear nothing comes out, and after enough of it nothing is there.
      a_dropped: assert (clears_q == '0 || \u_dut.kinds_q == '0);
      a_wiped: assert (clears_q < Latency || (memory == '0 && \u_dut.slot_q == '0));
      i_place: assert (place < Depth);
      i_age: assert (!watching_q || (age_q != '0 && age_q <= Latency));
      i_kind: assert (!watching_q || \u_dut.kinds_q [age_q-3'd1] == kind_q);
      i_at: assert (!watching_q || (at_q < Depth && (age_q > Depth ||
                                                     age_of(place, at_q) == age_q)));
      i_slot: assert (!watching_q || kind_q == None || age_q > Depth || memory[at_q] == slot_q);
      i_wiped: assert (&wiped);
    end
  end

endmodule
