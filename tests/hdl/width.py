"""The width that a bench is built with, and what follows from it."""

from hdl.widths import PARAMETER, bench_width

WORD_BYTES = bench_width()
WORD_CLOCKS = 16 // WORD_BYTES
WIDTH = {PARAMETER: WORD_BYTES}

AES_LATENCY = 29 if WORD_BYTES == 16 else 43
GHASH_LATENCY = {16: 5, 8: 6, 4: 7, 1: 13}[WORD_BYTES]
POWERS_LATENCY = {16: 16, 8: 19, 4: 8, 1: 1}[WORD_BYTES]
RECORD_OVERHEAD = {16: 6, 8: 5, 4: 4, 1: 16}[WORD_BYTES]
RECORD_LATENCY = AES_LATENCY + GHASH_LATENCY + 10
"""Clocks from the end of a frame to the header of its result."""


def round_path(number: int) -> str:
    """Return the path of what does round `number`, 1 to 14, in the cipher."""
    if WORD_BYTES == 16:
        return f"gen_round[{number}].u_round"
    return f"gen_unit[{(number - 1) // WORD_CLOCKS}].u_rounds.u_round"
