"""The simulated board: accesses, crash reports, end of its process."""

import os
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import hdl.registers.engine_map as regs
from hdl.sim import wire
from rig.board.protocol import BoardError
from rig.board.sim import SimBoard
from tests.support.boards import StartBoard, peek

WORD = 16


def bypass_frame(data: bytes) -> bytes:
    assert len(data) % WORD == 0
    return (3 << 28 | len(data)).to_bytes(4, "big") + bytes(12) + data


def alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def wait_gone(pid: int, limit_s: float) -> bool:
    deadline = time.monotonic() + limit_s
    while alive(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_sim_board_reads_and_writes_registers(sim_board: SimBoard) -> None:
    assert sim_board.read(regs.ID.address, 4, 1) == b"TAPE"
    sim_board.write(regs.SCRATCH.address, 4, b"\x01\x23\x45\x67")
    assert sim_board.read(regs.SCRATCH.address, 4, 1) == b"\x01\x23\x45\x67"
    both = sim_board.read(regs.ID.address, 4, 2)
    assert both == sim_board.read(regs.ID.address, 4, 1) + sim_board.read(
        regs.VERSION.address, 4, 1
    )


def test_sim_board_passes_records(sim_board: SimBoard) -> None:
    data = [os.urandom(WORD * words) for words in (1, 2, 128, 4096)]
    sim_board.write(regs.RECORD_IN, WORD, b"".join(map(bypass_frame, data)))
    for record in data:
        header = sim_board.read(regs.RECORD_OUT, WORD, 1)
        assert int.from_bytes(header[:4], "big") == 3 << 20 | len(record)
        assert sim_board.read(regs.RECORD_OUT, WORD, len(record) // WORD) == record


def test_sim_board_takes_a_frame_in_pieces(sim_board: SimBoard) -> None:
    data = os.urandom(WORD * 3)
    frame = bypass_frame(data)
    for at in range(0, len(frame), WORD):
        sim_board.write(regs.RECORD_IN, WORD, frame[at : at + WORD])
    assert sim_board.read(regs.RECORD_OUT, WORD, 4)[WORD:] == data


def test_sim_board_returns_results_before_the_next_frame_is_complete(sim_board: SimBoard) -> None:
    """Expect them well before the port's time-out; the best of three counts."""
    first, second = os.urandom(WORD * 2), os.urandom(WORD * 3)
    times = []
    for _ in range(3):
        begin = time.monotonic()
        sim_board.write(regs.RECORD_IN, WORD, bypass_frame(first) + bypass_frame(second)[:-WORD])
        assert sim_board.read(regs.RECORD_OUT, WORD, 3)[WORD:] == first
        sim_board.write(regs.RECORD_IN, WORD, second[-WORD:])
        assert sim_board.read(regs.RECORD_OUT, WORD, 4)[WORD:] == second
        times.append(time.monotonic() - begin)
    assert min(times) < 0.5


def test_sim_board_reports_a_read_without_results(start_board: StartBoard) -> None:
    board = start_board()
    with pytest.raises(BoardError, match="no word moved for 1000000 clocks"):
        board.read(regs.RECORD_OUT, WORD, 1)
    assert board.read(regs.ID.address, 4, 1) == b"TAPE"


@pytest.mark.parametrize(
    ("address", "size"), [(regs.RECORD_OUT, 4), (0x3000_0000, 16), (0, 16), (0x200, 4)]
)
def test_sim_board_refuses_an_unmapped_access(sim_board: SimBoard, address: int, size: int) -> None:
    with pytest.raises(BoardError, match=f"{address:#010x}"):
        sim_board.read(address, size, 1)
    assert sim_board.read(regs.ID.address, 4, 1) == b"TAPE"


def test_sim_board_shows_no_key_without_a_probe(sim_board: SimBoard) -> None:
    for path in ("u_drive_crypto", "u_drive_crypto.u_aes_key_expand.rows_q", "transport_key"):
        with pytest.raises(BoardError, match="cannot be seen"):
            peek(sim_board, path)
    assert len(peek(sim_board, "prdata_o")) == 4


def test_sim_board_close_ends_the_process(start_board: StartBoard) -> None:
    board = start_board()
    pid = board.pid
    board.close()
    assert not alive(pid)
    with pytest.raises(BoardError, match="closed"):
        board.read(regs.ID.address, 4, 1)
    board.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_sim_board_reports_a_crash_with_the_end_of_the_log(
    start_board: StartBoard, number: signal.Signals
) -> None:
    board = start_board()
    os.kill(board.pid, number)
    assert wait_gone(board.pid, 5.0)
    with pytest.raises(BoardError, match=f"signal {number.value}") as caught:
        board.read(regs.ID.address, 4, 1)
    assert "hdl.sim.serve" in str(caught.value)
    with pytest.raises(BoardError):
        board.write(regs.SCRATCH.address, 4, bytes(4))


def test_sim_board_reports_a_crash_during_a_record(start_board: StartBoard) -> None:
    board = start_board()
    frames = bypass_frame(bytes(1 << 18)) * 64
    board.write(regs.RECORD_IN, WORD, frames)
    threading.Timer(0.2, os.kill, (board.pid, signal.SIGKILL)).start()
    with pytest.raises(BoardError, match="signal 9"):
        board.read(regs.RECORD_OUT, WORD, len(frames) // WORD)


def test_sim_board_ends_cleanly_after_an_interrupted_request(
    start_board: StartBoard, tmp_path: Path
) -> None:
    log = tmp_path / "simulation.log"
    board = start_board(log=log)
    frames = bypass_frame(bytes(1 << 18)) * 16
    board.write(regs.RECORD_IN, WORD, frames)
    # Ctrl-C leaves a request whose answer nobody reads.
    assert board._connection is not None
    board._connection.sendall(wire.REQUEST.pack(wire.Kind.READ, WORD, regs.RECORD_OUT, 1))
    board.close()
    assert board._process.returncode == 0
    assert "FAIL=0" in log.read_text()


def test_sim_board_process_has_its_own_process_group(start_board: StartBoard) -> None:
    assert os.getpgid(start_board().pid) != os.getpgid(0)


PARENT = """
import sys, time
import hdl.registers.engine_map as regs
from hdl.sim import wire
from hdl.registers.types import Register
from rig.board.sim import SimBoard
board = SimBoard()
print(board.pid, flush=True)
if sys.argv[1] == "busy":
    frame = (3 << 28 | 1 << 18).to_bytes(4, "big") + bytes(12) + bytes(1 << 18)
    board.write(regs.RECORD_IN, 16, frame * 400)
    board.read(regs.RECORD_OUT, 16, 400 * len(frame) // 16)
time.sleep(600)
"""


@pytest.mark.parametrize("state", ["idle", "busy"])
@pytest.mark.usefixtures("sim_board")
def test_sim_board_process_ends_with_its_parent(state: str, tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, state],
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert parent.stdout is not None
    with parent.stdout:
        pid = int(parent.stdout.readline())
        time.sleep(0.5)
        assert alive(pid)
        parent.kill()
        parent.wait()
    assert wait_gone(pid, 2.0)


def test_sim_board_outlives_the_thread_that_opened_it(start_board: StartBoard) -> None:
    boards: list[SimBoard] = []
    thread = threading.Thread(target=lambda: boards.append(start_board()))
    thread.start()
    thread.join()
    time.sleep(0.5)
    assert boards[0].read(regs.ID.address, 4, 1) == b"TAPE"


def test_sim_board_writes_waves_as_fst(start_board: StartBoard, tmp_path: Path) -> None:
    path = tmp_path / "run" / "waves.fst"
    board = start_board(waves=path)
    data = os.urandom(WORD * 4)
    board.write(regs.RECORD_IN, WORD, bypass_frame(data))
    assert board.read(regs.RECORD_OUT, WORD, 5)[WORD:] == data
    board.close()
    # The header block of the format: type 0, 329 bytes, start, end, e as a double, ..., variables.
    header = path.read_bytes()[:57]
    kind, length, start, end = struct.unpack_from(">BQQQ", header)
    (e,) = struct.unpack_from("<d", header, 25)
    scopes, variables = struct.unpack_from(">QQ", header, 41)
    assert (kind, length, start) == (0, 329, 0)
    assert e == pytest.approx(2.718281828459045)
    assert end > 10 * 16_000  # picoseconds: ten clocks at least
    assert scopes > 5
    assert variables > 100


def test_sim_board_keeps_a_log_that_the_caller_names(
    start_board: StartBoard, tmp_path: Path
) -> None:
    log = tmp_path / "logs" / "simulation.log"
    start_board(log=log).close()
    assert "hdl.sim.serve" in log.read_text()


class TestTransportKeyFile:
    """Checks of the transport key file by the simulation."""

    def test_sim_board_refuses_a_key_file_that_others_can_access(self, tmp_path: Path) -> None:
        for mode in (0o640, 0o604, 0o620, 0o700):
            path = tmp_path / f"Key-{mode:o}.hex"
            path.write_text("ab" * 32)
            path.chmod(mode)
            with pytest.raises(BoardError, match=f"{path} .*0600"):
                SimBoard(transport_key=path)

    def test_sim_board_reports_a_missing_key_file(self, tmp_path: Path) -> None:
        with pytest.raises(BoardError, match="cannot be opened"):
            SimBoard(transport_key=tmp_path / "none.hex")

    @pytest.mark.parametrize("text", ["", "ab" * 31, "ab" * 33, "zz" * 32, "ab" * 32 + "\n\n"])
    def test_sim_board_refuses_a_file_without_a_key(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "key.hex"
        path.write_text(text)
        path.chmod(0o600)
        with pytest.raises(BoardError, match="64 hexadecimal digits") as caught:
            SimBoard(transport_key=path)
        assert "\n" not in str(caught.value)
        assert not text or text.strip() not in str(caught.value)


def test_sim_board_names_the_packages_when_the_compiler_is_missing(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PATH": str(tmp_path),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    script = "from rig.board.sim import SimBoard\nfrom rig.board.protocol import BoardError\n"
    script += "try:\n    SimBoard()\nexcept BoardError as error:\n    print(error)"
    answer = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    (line,) = answer.stdout.splitlines()
    assert "g++" in line
    assert "make" in line
    assert "perl" in line
    assert "apt-get install" in line
