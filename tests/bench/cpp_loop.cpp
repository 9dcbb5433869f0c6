// The engine in a plain C++ loop: the limit of what its simulation can do on this machine.
//
// No cocotb, no DPI, no scheduler of time; the frames lie in memory before the clock runs.
//
// Commands on standard input, one answer a line:
//   write ADDRESS VALUE   a register; answers "done"
//   read ADDRESS          a register; answers its value
//   run IN OUT COUNT      sends the COUNT frames of file IN, stores their results in file OUT;
//                         answers how many seconds that took, by the clock on the wall and of
//                         processor time
//
// Byte 0 of a word is bits [127:120].

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

#include "../../hdl/sim/one_edge.h"
#include "Vdrive_crypto.h"
#include "Vdrive_crypto___024root.h"

namespace {

constexpr size_t kWordBytes = 16;
constexpr uint64_t kHang = 1000000;  // clocks without a word

[[noreturn]] void fail(const std::string& why) {
    std::cerr << why << std::endl;
    std::exit(1);
}

double processor_seconds() {
    timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return double(now.tv_sec) + 1e-9 * double(now.tv_nsec);
}

class Loop {
  public:
    Loop() : top_(&context_) {
        top_.rst_ni = 0;
        for (int i = 0; i < 4; ++i) clock();
        top_.rst_ni = 1;
        top_.s_apb_pstrb = 15;
    }

    uint32_t access(uint32_t address, bool write, uint32_t value) {
        top_.s_apb_psel = 1;
        top_.s_apb_penable = 0;
        top_.s_apb_pwrite = write;
        top_.s_apb_paddr = address;
        top_.s_apb_pwdata = value;
        clock();
        top_.s_apb_penable = 1;
        for (;;) {
            low();
            const bool ready = top_.s_apb_pready;
            const uint32_t data = top_.s_apb_prdata;
            high();
            if (!ready) continue;
            top_.s_apb_psel = 0;
            top_.s_apb_penable = 0;
            return data;
        }
    }

    // Frames in, as many result frames out. No output hangs on an input but through a register, so
    // what is seen after a rise holds until the next.
    std::vector<uint8_t> run(const std::vector<uint8_t>& in, size_t frames) {
        std::vector<uint8_t> out;
        out.reserve(in.size() + frames * kWordBytes);
        size_t used = 0;
        uint64_t idle = 0;
        frame_bytes_ = in.size() / frames;  // all are as long
        top_.out_ready_i = 1;
        offer(in, used);
        low();
        while (frames) {
            const bool takes = top_.in_valid_i && top_.in_ready_o;
            if (top_.out_valid_o) {
                const size_t end = out.size();
                out.resize(end + kWordBytes);
                for (int lane = 0; lane < 4; ++lane) {
                    const uint32_t value = __builtin_bswap32(top_.out_data_o[3 - lane]);
                    std::memcpy(&out[end + 4 * lane], &value, sizeof value);
                }
                frames -= top_.out_last_o;
                idle = 0;
            } else if (++idle > kHang) {
                fail("the engine hangs");
            }
            if (!forget_high(top_.rootp)) low();
            high();
            if (takes) offer(in, used += kWordBytes);
        }
        return out;
    }

  private:
    void low() {
        top_.clk_i = 0;
        top_.eval();
    }

    void high() {
        top_.clk_i = 1;
        top_.eval();
    }

    void clock() {
        low();
        high();
    }

    void offer(const std::vector<uint8_t>& in, size_t at) {
        top_.in_valid_i = at < in.size();
        if (!top_.in_valid_i) return;
        top_.in_last_i = (at + kWordBytes) % frame_bytes_ == 0;
        for (int lane = 0; lane < 4; ++lane) {
            uint32_t value;
            std::memcpy(&value, &in[at + 4 * lane], sizeof value);
            top_.in_data_i[3 - lane] = __builtin_bswap32(value);
        }
    }

    size_t frame_bytes_ = 0;
    VerilatedContext context_;
    Vdrive_crypto top_;
};

}  // namespace

int main() {
    Loop loop;
    std::string command;
    while (std::cin >> command) {
        if (command == "write") {
            uint32_t address, value;
            std::cin >> address >> value;
            loop.access(address, true, value);
            std::cout << "done" << std::endl;
        } else if (command == "read") {
            uint32_t address;
            std::cin >> address;
            std::cout << loop.access(address, false, 0) << std::endl;
        } else if (command == "run") {
            std::string in_name, out_name;
            size_t frames;
            std::cin >> in_name >> out_name >> frames;
            std::ifstream in_file(in_name, std::ios::binary);
            const std::vector<uint8_t> in((std::istreambuf_iterator<char>(in_file)), {});
            if (in.empty()) fail("no frames in " + in_name);
            const auto begin = std::chrono::steady_clock::now();
            const double processor_begin = processor_seconds();
            const std::vector<uint8_t> out = loop.run(in, frames);
            const double processor = processor_seconds() - processor_begin;
            const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
            std::ofstream(out_name, std::ios::binary)
                .write(reinterpret_cast<const char*>(out.data()), std::streamsize(out.size()));
            std::cout << seconds.count() << ' ' << processor << std::endl;
        } else {
            fail("no such command: " + command);
        }
    }
}
