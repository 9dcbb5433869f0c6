// Ends the simulation when the process that started it is gone, whatever the simulation does then.
//
// A thread compares the parent's id.  PR_SET_PDEATHSIG would also fire when merely the thread that
// opened the board ends.

#include <unistd.h>

#include <chrono>
#include <thread>

extern "C" void parent_watch_start(int parent) {
    if (parent <= 0) return;
    std::thread([parent] {
        while (getppid() == parent) std::this_thread::sleep_for(std::chrono::milliseconds(100));
        _exit(4);
    }).detach();
}
