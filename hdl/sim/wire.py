"""The protocol between the simulation's server and its parent process.

A stream socket carries requests and one answer to each, except for a write of frames, which has no
answer. All numbers are big endian.

    request   kind(1) item size(1) zero(2) address(4) count(4), then the data of a write
    answer    outcome(1) zero(3) length(4), then `length` bytes: data, or the text of an error

The answer to a read of the result window may be longer than requested: it has all results that are
ready. The server sends the first message: an answer whose data is HELLO.
"""

import socket
import struct
from enum import IntEnum

from hdl.registers.engine_map import RECORD_IN

# The environment variable with the descriptor of the socket that the simulation inherits.
SOCKET_VARIABLE = "TAPERIG_SIM_SOCKET"

HELLO = b"taperig simulation 2"

PORT_COUNTERS = 0x100
"""The address of the registers of port_counters.sv."""

# Address and item size of a write of frames.
UNANSWERED_WRITE = (RECORD_IN, 16)

REQUEST = struct.Struct(">BBxxII")
ANSWER = struct.Struct(">BxxxI")


class Kind(IntEnum):
    """The kind of a request."""

    READ = 1
    WRITE = 2
    # The value of an internal signal; the data is its path. Only in builds with probes.
    PEEK = 3


class AnswerOutcome(IntEnum):
    """The outcome of a request, in its answer."""

    OK = 0
    ERROR = 1


def receive(connection: socket.socket, size: int) -> bytearray | None:
    """Return exactly `size` bytes, or None when the peer has closed."""
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = connection.recv_into(view)
        if count == 0:
            return None
        view = view[count:]
    return data


def send_answer(connection: socket.socket, outcome: AnswerOutcome, data: bytes | bytearray) -> None:
    """Send one answer."""
    view = memoryview(data)
    connection.sendall(ANSWER.pack(outcome, view.nbytes))
    connection.sendall(view)
