// Main loop of the simulated board: cocotb's own, but that it makes the clock, and that it leaves
// cocotb out of the loop while nothing but the record port is waited for.
//
// Written after cocotb 2.0 share/lib/verilator/verilator.cpp (BSD-3-Clause), which asks the VPI four
// times in every half clock whether Python wants to be woken.  While record_watch_i is high Python
// waits for record_wake_o and for nothing else, so until that rises the clock just runs.
//
// Option: --trace-file FILE, in a build with waves.  The unit of time is 1 ps.

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>

#include "Vtop.h"
#include "Vtop___024root.h"
#include "one_edge.h"
#include "verilated.h"
#include "verilated_vpi.h"

#if VM_TRACE
#include <verilated_fst_c.h>
#endif

extern "C" {
void vlog_startup_routines_bootstrap(void);
bool record_port_is_called(void);
}

namespace {

constexpr uint64_t kHalfClock = 8000;  // 62.5 MHz; CLOCK_NS of serve.py is twice that
constexpr uint64_t kResetClocks = 4;

// How often the host's socket is looked at while the clock runs alone.
constexpr uint64_t kClocksBetweenCalls = 2048;

uint64_t now = 0;

class Board {
  public:
    explicit Board(const char* trace_file) : top_(new Vtop("")) {
        // Python sets the other inputs. With random initial values these would be anything.
        top_->clk_i = 0;
        top_->rst_ni = 0;
        top_->record_watch_i = 0;
        top_->record_call_i = 0;
#if VM_TRACE
        if (trace_file) {
            Verilated::traceEverOn(true);
            trace_.reset(new VerilatedFstC);
            top_->trace(trace_.get(), 99);
            trace_->open(trace_file);
        }
#else
        (void)trace_file;
#endif
    }

    // One moment in which Python may act, at most half a clock long.
    void step() {
        do {
            do {
                top_->eval_step();
                VerilatedVpi::clearEvalNeeded();
                VerilatedVpi::doInertialPuts();
                settle();
            } while (VerilatedVpi::evalNeeded());
            VerilatedVpi::callCbs(cbReadWriteSynch);
            VerilatedVpi::doInertialPuts();
            settle();
        } while (VerilatedVpi::evalNeeded());
        top_->eval_end_step();
        VerilatedVpi::callCbs(cbReadOnlySynch);
        dump();

        // The VPI must have seen the last wake-up end to notice the next.
        if (top_->record_watch_i && !top_->record_wake_o) run_alone();

        const uint64_t deadline = VerilatedVpi::cbNextDeadline();
        now = deadline < next_edge_ ? deadline : next_edge_;
        VerilatedVpi::callCbs(cbNextSimTime);
        settle();
        VerilatedVpi::callTimedCbs();
        settle();
        if (now == next_edge_) edge();
    }

    static void settle() {
        while (VerilatedVpi::callValueCbs()) {
        }
    }

    void finish() {
        top_->final();
        VerilatedVpi::callCbs(cbEndOfSimulation);
#if VM_TRACE
        if (trace_) trace_->close();
#endif
    }

  private:
    void edge() {
        top_->clk_i = !top_->clk_i;
        top_->rst_ni = now >= 2 * kResetClocks * kHalfClock;
        next_edge_ += kHalfClock;
    }

    void run_alone() {
        uint64_t clocks = 0;
        do {
            now = next_edge_;
            edge();
            if (!top_->clk_i && skips_falls() && forget_high(top_->rootp)) continue;
            top_->eval();
            dump();
            if (top_->clk_i && ++clocks % kClocksBetweenCalls == 0) {
                top_->record_call_i = record_port_is_called();
            }
        } while (!top_->record_wake_o && !Verilated::gotFinish());
        top_->record_call_i = 0;
    }

    // Waves show both edges.
    bool skips_falls() const {
#if VM_TRACE
        return !trace_;
#else
        return true;
#endif
    }

    void dump() {
#if VM_TRACE
        if (trace_) trace_->dump(now);
#endif
    }

    std::unique_ptr<Vtop> top_;
#if VM_TRACE
    std::unique_ptr<VerilatedFstC> trace_;
#endif
    uint64_t next_edge_ = kHalfClock;
};

}  // namespace

double sc_time_stamp() { return double(now); }

int main(int argc, char** argv) {
    const char* trace_file = nullptr;
    for (int i = 1; i + 1 < argc; ++i) {
        if (std::strcmp(argv[i], "--trace-file") == 0) trace_file = argv[i + 1];
    }
    Verilated::commandArgs(argc, argv);
    Verilated::fatalOnVpiError(false);
    Board board(trace_file);
    vlog_startup_routines_bootstrap();
    VerilatedVpi::callCbs(cbStartOfSimulation);
    Board::settle();
    while (!Verilated::gotFinish()) board.step();
    board.finish();
    return Verilated::threadContextp()->errorCount() > 0;
}
