"""The virtual board, a process that is reached by a VISA resource."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import tty
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from hdl.boards.virtual.launch import build_virtual_board, start_virtual_board
from hdl.errors import HdlError
from hdl.files import read_end
from hdl.widths import DEFAULT_WIDTH
from hsm.child_process import wait_for_end
from hsm.listener import open_listener
from rig.board.protocol import BoardError
from rig.board.sim import announce

DEFAULT_PORT = 3820
BANK_BYTES = 65536

_STOP_LIMIT_S = 5.0


class VirtualBoard:
    """The whole board, simulated at its pins.

    Its serial line is a TCP socket and a pseudo-terminal. `port` 0 takes any free port. The board
    keeps its state when a host disconnects, as a real board does, until `close`.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        transport_key: Path | None = None,
        log: Path | None = None,
        bank_bytes: int = BANK_BYTES,
        word_bytes: int = DEFAULT_WIDTH,
        on_build: Callable[[str], None] | None = announce,
    ) -> None:
        """Build the simulation if needed, and start it."""
        self._scratch = Path(tempfile.mkdtemp(prefix="taperig-virtual-"))
        self.log = log or self._scratch / "board.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._slave: int | None = None
        try:
            built = build_virtual_board(
                bank_bytes=bank_bytes, word_bytes=word_bytes, on_build=on_build
            )
            with _listen(port) as listener:
                self.port = listener.getsockname()[1]
                master, slave = os.openpty()
                # Kept open here: a pseudo-terminal hangs up when its last user closes it.
                self._slave = slave
                try:
                    tty.setraw(slave)
                    self.terminal = os.ttyname(slave)
                    self._process = start_virtual_board(
                        built, listener.fileno(), master, self.log, transport_key=transport_key
                    )
                finally:
                    os.close(master)
        except HdlError as error:
            self.close()
            raise BoardError(str(error)) from error
        except BaseException:
            self.close()
            raise

    @property
    def socket_resource(self) -> str:
        """Return the VISA resource of the TCP socket."""
        return f"TCPIP::127.0.0.1::{self.port}::SOCKET"

    @property
    def serial_resource(self) -> str:
        """Return the VISA resource of the pseudo-terminal."""
        return f"ASRL{self.terminal}::INSTR"

    def __enter__(self) -> Self:
        """Return the board; it stops at the end of the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the board."""
        self.close()

    def wait(self) -> None:
        """Wait until the board stops by itself, then raise BoardError."""
        assert self._process is not None
        code = self._process.wait()
        lines = read_end(self.log).splitlines() if self.log.is_file() else []
        messages = [line for line in lines if line.startswith("taperig: ")]
        if messages:
            sentence = messages[-1].removeprefix("taperig: ")
            raise BoardError(sentence[:1].upper() + sentence[1:])
        tail = "\n".join(lines[-10:])
        raise BoardError(f"The virtual board stopped (exit code {code}); its log ends:\n{tail}")

    def close(self) -> None:
        """Stop the board."""
        if self._process is not None:
            self._process.terminate()
            if wait_for_end(self._process, _STOP_LIMIT_S) is None:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._slave is not None:
            os.close(self._slave)
            self._slave = None
        shutil.rmtree(self._scratch, ignore_errors=True)


def _listen(port: int) -> socket.socket:
    try:
        return open_listener("127.0.0.1", port)
    except OSError as error:
        raise BoardError(
            f"The virtual board cannot listen on port {port} ({error.strerror}); "
            "stop the program that uses it, or choose another port with --port"
        ) from None
