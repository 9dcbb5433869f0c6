// The far end of the virtual board's serial line: a TCP socket and a terminal (pty).
//
// Bytes from either go to the board bit by bit, 8N1, as a UART of its own; the board's answers go to
// where the last byte came from. While bytes move, time runs at the simulator's speed. When none
// do, time runs on slowly for a while (the bridge drops half a command by its clock), then stands
// still until a byte comes.

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <svdpi.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <vector>

namespace {

constexpr int kLookClocks = 256;     // how often the host is looked for
constexpr int kIdleLookMs = 2;       // and how long then, when nothing moves
constexpr int kFrameBits = 10;

int listener = -1;
int terminal = -1;
int client = -1;
int answer_to = -1;
int clocks_per_bit = 4;
int linger_clocks = 0;

// Sending to the board.
std::deque<uint8_t> to_board;
uint32_t send_shift = 1;
int send_bits = 0;
int send_timer = 0;

// Receiving from the board.
std::vector<uint8_t> from_board;
uint32_t take_byte = 0;
int take_bits = 0;
int take_timer = 0;

int look_timer = 0;
int quiet_clocks = 0;

void drop_client() {
    if (answer_to == client) answer_to = -1;
    close(client);
    client = -1;
}

void deliver() {
    size_t done = 0;
    while (answer_to >= 0 && done < from_board.size()) {
        const ssize_t count = write(answer_to, from_board.data() + done, from_board.size() - done);
        if (count > 0) {
            done += size_t(count);
        } else if (count < 0 && (errno == EAGAIN || errno == EINTR)) {
            pollfd writable{answer_to, POLLOUT, 0};
            // A terminal that nobody reads loses what does not fit, as a serial line does.
            if (poll(&writable, 1, answer_to == terminal ? 100 : 1000) <= 0) break;
        } else {
            if (answer_to == client) drop_client();
            break;
        }
    }
    from_board.clear();
}

void take_from(int descriptor) {
    uint8_t buffer[4096];
    const ssize_t count = read(descriptor, buffer, sizeof buffer);
    if (count > 0) {
        to_board.insert(to_board.end(), buffer, buffer + count);
        answer_to = descriptor;
    } else if (descriptor == client && (count == 0 || (errno != EAGAIN && errno != EINTR))) {
        drop_client();
    }
}

void take_client() {
    const int arrived = accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (arrived < 0) return;
    // One line, one host: a new connection takes over from one that may long be dead.
    if (client >= 0) drop_client();
    const int on = 1;
    setsockopt(arrived, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    client = arrived;
}

void look_for_host(int timeout_ms) {
    pollfd watched[3] = {{listener, POLLIN, 0}, {client, POLLIN, 0}, {terminal, POLLIN, 0}};
    const int terminal_at = 2;
    if (poll(watched, 3, timeout_ms) <= 0) return;
    if (client >= 0 && watched[1].revents) take_from(client);
    if (watched[terminal_at].revents & POLLIN) take_from(terminal);
    if (watched[0].revents & POLLIN) take_client();
}

}  // namespace

extern "C" {

void serial_line_open(int socket, int pty, int bit_clocks, int linger) {
    listener = socket;
    terminal = pty;
    clocks_per_bit = bit_clocks;
    linger_clocks = linger;
    for (int descriptor : {listener, terminal}) {
        if (descriptor >= 0) fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) | O_NONBLOCK);
    }
}

svBit serial_line_step(svBit pin) {
    bool moving = send_bits > 0 || take_bits > 0 || !to_board.empty();

    if (take_bits == 0) {
        if (pin == 0) {
            take_bits = kFrameBits;
            take_timer = (clocks_per_bit - 1) / 2;
            moving = true;
        }
    } else if (take_timer == 0) {
        take_timer = clocks_per_bit - 1;
        --take_bits;
        if (take_bits > 0 && take_bits < kFrameBits - 1) take_byte = take_byte >> 1 | uint32_t(pin) << 7;
        if (take_bits == 0) from_board.push_back(uint8_t(take_byte));
    } else {
        --take_timer;
    }

    if (send_timer > 0) {
        --send_timer;
    } else if (send_bits > 0) {
        send_shift >>= 1;
        --send_bits;
        send_timer = clocks_per_bit - 1;
    }
    if (send_bits == 0) {
        send_shift = 1;
        if (!to_board.empty()) {
            send_shift = 1u << 9 | uint32_t(to_board.front()) << 1;
            to_board.pop_front();
            send_bits = kFrameBits;
            send_timer = clocks_per_bit - 1;
        }
    }

    quiet_clocks = moving ? 0 : quiet_clocks + 1;
    if (++look_timer >= kLookClocks) {
        look_timer = 0;
        if (!from_board.empty()) deliver();
        look_for_host(quiet_clocks > linger_clocks ? -1 : quiet_clocks > kLookClocks ? kIdleLookMs : 0);
    }
    return send_shift & 1;
}

}  // extern "C"
