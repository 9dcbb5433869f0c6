// Remembers how long each frame out of the engine was and when it ended, for the bench.

#include <svdpi.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace {
std::vector<int32_t> ends;  // words, clock; words, clock; ...
}

extern "C" {

void frame_ended(int words, int clocks) {
    ends.push_back(words);
    ends.push_back(clocks);
}

// Copy up to `count` numbers to `numbers` and forget all; return how many there were.
size_t frame_ends_take(int32_t* numbers, size_t count) {
    const size_t had = ends.size();
    for (size_t i = 0; i < had && i < count; ++i) numbers[i] = ends[i];
    ends.clear();
    return had;
}

}  // extern "C"
