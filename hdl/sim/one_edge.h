// Evaluating a model of Verilator's once a clock, at the rise.

#pragma once

// Let the model forget that the clock was high, so that it takes its next rise for one although it
// never saw it fall; false when this version of Verilator keeps that elsewhere. Nothing in the gates
// happens at a falling edge, and evaluating it costs as much as any edge does before its first register.
template <typename Root>
bool forget_high(Root* root) {
    if constexpr (requires { root->__Vtrigprevexpr___TOP__clk_i__0; }) {
        root->__Vtrigprevexpr___TOP__clk_i__0 = 0;
        return true;
    }
    return false;
}
