// The Verilated model is one heap block: its symbol table holds every module by value.

#include <malloc.h>
#include <svdpi.h>
#include <verilated.h>

#include <cstdio>

extern "C" void model_location_print() {
    const auto* scope = static_cast<const VerilatedScope*>(svGetScope());
    void* model = scope->symsp();
    std::printf("gates at %p, %zu bytes\n", model, malloc_usable_size(model));
    std::fflush(stdout);
}
