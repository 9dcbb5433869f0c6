"""Widths of the engine's data path: parameter WordBytes of the RTL.

A word has 16 bytes at every width; a narrower path takes several clocks for it. Registers, frames
and checks are the same.
"""

import os

from hdl.errors import HdlError

PARAMETER = "WordBytes"
WORD_BYTES = 16
WIDTHS = (WORD_BYTES, 8, 4, 1)
"""Bytes a clock, the widest first."""
DEFAULT_WIDTH = WIDTHS[0]

# One of WIDTHS; when it is set, the benches of the gates are built with it.
WIDTH_VARIABLE = "TAPERIG_WORD_BYTES"


def clocks_per_word(word_bytes: int) -> int:
    """Return the clocks in which a data path of this width passes a word."""
    return WORD_BYTES // word_bytes


def require_width(word_bytes: int) -> None:
    """Raise HdlError for a width that the engine does not have."""
    if word_bytes not in WIDTHS:
        known = ", ".join(map(str, WIDTHS[:-1]))
        raise HdlError(
            f"The engine cannot be built for {word_bytes} bytes a clock; choose {known} or "
            f"{WIDTHS[-1]}."
        )


def bench_width() -> int:
    """Return the width that benches are built with; the default is 16."""
    text = os.environ.get(WIDTH_VARIABLE) or str(DEFAULT_WIDTH)
    if text not in map(str, WIDTHS):
        known = ", ".join(map(str, WIDTHS[:-1]))
        raise HdlError(
            f"The environment variable {WIDTH_VARIABLE} is '{text}'; set it to {known} or "
            f"{WIDTHS[-1]}, or unset it."
        )
    return int(text)
