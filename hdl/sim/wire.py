"""What passes between the simulation's server and the process that started it.

A stream socket, one answer to every request but a write of frames, which has none.  All numbers are
big endian.

    request   kind(1) item size(1) zero(2) address(4) count(4), then the data of a write
    answer    outcome(1) zero(3) length(4), then `length` bytes: data, or the text of an error

A read of the result window may answer with more than was asked for: all results that are there.
The server speaks first: an answer whose data is HELLO.
"""

import socket
import struct
from enum import IntEnum

from hdl.registers.engine_map import RECORD_IN

# Names the descriptor of the socket that the simulation inherits.
SOCKET_VARIABLE = "TAPERIG_SIM_SOCKET"

HELLO = b"taperig simulation 1"

# Address and item size of a write of frames.
UNANSWERED_WRITE = (RECORD_IN, 16)

REQUEST = struct.Struct(">BBxxII")
ANSWER = struct.Struct(">BxxxI")


class Kind(IntEnum):
    """What a request asks for."""

    READ = 1
    WRITE = 2
    # Value of an inner signal by its path (the data); builds with probes only.
    PEEK = 3


class RecordOutcome(IntEnum):
    """What an answer says."""

    OK = 0
    ERROR = 1


def receive(connection: socket.socket, size: int) -> bytearray | None:
    """Return exactly `size` bytes, or None when the other side has closed."""
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = connection.recv_into(view)
        if count == 0:
            return None
        view = view[count:]
    return data


def send_answer(connection: socket.socket, outcome: RecordOutcome, data: bytes | bytearray) -> None:
    """Send one answer."""
    view = memoryview(data)
    connection.sendall(ANSWER.pack(outcome, view.nbytes))
    connection.sendall(view)
