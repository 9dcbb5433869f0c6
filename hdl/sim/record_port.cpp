// The host side of record_port.sv: two queues of 16-byte words.
//
// The simulation calls record_port_next and record_port_take (DPI), its main loop
// record_port_is_called; the Python server, which lives in the same process, calls the rest through
// ctypes.  One thread runs all, so nothing is locked.
//
// Byte 0 of a word is bits [127:120].

#include <poll.h>
#include <svdpi.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr size_t kWordBytes = 16;
constexpr uint32_t kOpDecrypt = 2;

// A host that waits is woken early when this much waits for it, however much more is to come.
constexpr size_t kWakeBytes = 1 << 19;

std::vector<uint8_t> to_engine;
size_t to_engine_used = 0;      // bytes of to_engine that the engine has taken
size_t engine_words_left = 0;   // words of the frame that the engine takes still to come
size_t frame_words_left = 0;    // words of the current input frame still to come
uint64_t frames_entered = 0;    // input frames whose last word was queued
uint64_t frames_answered = 0;   // output frames whose last word came

std::vector<uint8_t> from_engine;
size_t from_engine_used = 0;    // bytes of from_engine that the host has taken
size_t wanted = 0;              // bytes that the host waits for; 0: it does not wait

int caller = -1;                // descriptor whose readiness to be read ends a run ahead; -1: none

size_t words(size_t bytes) { return (bytes + kWordBytes - 1) / kWordBytes; }

// How many words follow a frame's header, as the engine counts them.
size_t words_after_header(const uint8_t* header) {
    const uint32_t top = uint32_t(header[0]) << 24 | uint32_t(header[1]) << 16 |
                         uint32_t(header[2]) << 8 | header[3];
    const uint32_t op = top >> 28;
    const uint32_t aad_bytes = (top >> 20) & 0xff;
    const uint32_t data_bytes = top & 0x7ffff;
    return words(aad_bytes) + words(data_bytes) + (op == kOpDecrypt ? 1 : 0);
}

size_t available() { return from_engine.size() - from_engine_used; }

}  // namespace

extern "C" {

// ---- called by the simulation ----

svBit record_port_next(svBitVecVal* word, svBit* last) {
    *last = 0;
    if (to_engine_used + kWordBytes > to_engine.size()) return 0;
    engine_words_left = engine_words_left ? engine_words_left - 1
                                          : words_after_header(&to_engine[to_engine_used]);
    *last = engine_words_left == 0;
    for (int lane = 0; lane < 4; ++lane) {
        uint32_t value;
        std::memcpy(&value, &to_engine[to_engine_used + 4 * lane], sizeof value);
        word[3 - lane] = __builtin_bswap32(value);
    }
    to_engine_used += kWordBytes;
    return 1;
}

svBit record_port_take(const svBitVecVal* word, svBit last) {
    uint32_t values[4];
    for (int lane = 0; lane < 4; ++lane) values[lane] = __builtin_bswap32(word[3 - lane]);
    const auto* bytes = reinterpret_cast<const uint8_t*>(values);
    from_engine.insert(from_engine.end(), bytes, bytes + kWordBytes);
    if (!last) return 0;
    ++frames_answered;
    const bool all = frames_answered == frames_entered;
    if (caller >= 0) return all;
    if (wanted == 0 || available() < wanted) return 0;
    // Whole results only, and as many as the host has asked for: one wake-up a batch.
    return all || available() >= kWakeBytes;
}

// Whether the host has something to ask while the simulation runs ahead.
bool record_port_is_called(void) {
    if (caller < 0) return false;
    pollfd one = {caller, POLLIN, 0};
    return poll(&one, 1, 0) != 0;
}

// ---- called by the server ----

// Queue `size` bytes (a multiple of 16) for the engine.
void record_port_push(const uint8_t* data, size_t size) {
    for (size_t at = 0; at < size;) {
        if (frame_words_left == 0) {
            frame_words_left = words_after_header(data + at);
            at += kWordBytes;
        } else {
            const size_t left = (size - at) / kWordBytes;
            const size_t step = frame_words_left < left ? frame_words_left : left;
            frame_words_left -= step;
            at += step * kWordBytes;
        }
        if (frame_words_left == 0) ++frames_entered;
    }
    if (to_engine_used == to_engine.size()) {
        to_engine.clear();
        to_engine_used = 0;
    }
    to_engine.insert(to_engine.end(), data, data + size);
}

// Run ahead until all frames are answered or `descriptor` can be read (-1: no more); return how many
// frames are not answered.
size_t record_port_run_ahead(int descriptor) {
    caller = descriptor;
    return frames_entered - frames_answered;
}

// Say how many bytes the host waits for (0: none); return how many are there now.
size_t record_port_want(size_t size) {
    wanted = size;
    return available();
}

// Move up to `size` bytes of results to `data`; return how many.
size_t record_port_pop(uint8_t* data, size_t size) {
    const size_t count = size < available() ? size : available();
    std::memcpy(data, from_engine.data() + from_engine_used, count);
    from_engine_used += count;
    if (available() == 0) {
        from_engine.clear();
        from_engine_used = 0;
    }
    return count;
}

// Forget all frames, while the engine is in reset.
void record_port_drop(void) {
    to_engine.clear();
    from_engine.clear();
    to_engine_used = from_engine_used = 0;
    engine_words_left = frame_words_left = 0;
    frames_entered = frames_answered = 0;
}

}  // extern "C"
