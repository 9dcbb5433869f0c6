// Reads the engine's transport key from its file, so that it never passes through Python.
//
// The file holds 64 hexadecimal digits and belongs to its owner alone (mode 0600 or narrower).

#include <svdpi.h>
#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cctype>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

constexpr size_t kDigits = 64;

// The host shows lines that begin so to the user as they are.
[[noreturn]] void refuse(const char* path, const char* why) {
    std::fprintf(stderr, "taperig: transport key file %s %s\n", path, why);
    std::fflush(nullptr);
    _exit(3);
}

int digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

}  // namespace

extern "C" {

// Key of the file at `path`; with an empty path a random one, under which no sealed key opens.
void transport_key_read(const char* path, svBitVecVal* key) {
    if (path[0] == '\0') {
        if (getrandom(key, 32, 0) != 32) refuse("(none)", "is missing and no randomness is to be had");
        return;
    }
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) refuse(path, "cannot be opened: provision the drive or name the right file");
    struct stat status;
    if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) refuse(path, "is not a regular file");
    if ((status.st_mode & 07177) != 0) {
        refuse(path, "may be read by others: set its mode to 0600 and provision a new key");
    }
    char text[kDigits + 2] = {};
    const ssize_t size = read(fd, text, sizeof text);
    close(fd);
    const bool ends_well = size == kDigits || (size == kDigits + 1 && text[kDigits] == '\n');
    for (int i = 0; i < 8; ++i) key[i] = 0;
    bool good = ends_well;
    for (size_t i = 0; good && i < kDigits; ++i) {
        const int value = digit(text[i]);
        good = value >= 0;
        // Digit 0 is bits [255:252].
        if (good) key[7 - i / 8] |= uint32_t(value) << (28 - 4 * (i % 8));
    }
    explicit_bzero(text, sizeof text);
    if (!good) refuse(path, "does not hold 64 hexadecimal digits: provision the drive again");
}

}  // extern "C"
