"""Measure the speed of the simulated engine in MB of payload a second.

MB is 10^6 bytes.

    axi_mb_s   one agent of cocotbext-axi on each stream of the bare engine, awake on every clock
    rig_mb_s   the rig's own path: Engine on a SimBoard
    cpp_mb_s   a plain C++ loop around the same Verilated sources, without cocotb: the limit
    run_mb_s   a whole `rig run` on one encrypted pool: payload through the gates, which is the data
               twice (written, and read back), by the wall time of the command, start and all;
               tokens and keys were made, and the simulation built, by a short run before; it is
               compared with the rig's own path just before and after it

The first three encrypt the same kind of records; every result is compared with that of
`cryptography`.  Their figures are medians over turns in which each comes once, so that what else
the machine does hurts all alike; the ratios are medians of each turn's ratio.

These are by the clock on the wall, and mean something on a machine that is otherwise idle.  The
same with `_cpu` are by processor time, for a machine that is not: of all processes on the path
together, the rig's and the simulation's, and for the run of everything that the command starts.
They give no credit for what is done at the same time on two cores, so on an idle machine rig and
run are better than they say.

`--json FILE` writes the figures; those of 2 KiB records are named `..._2k`, the others are of
256 KiB records.

Run as `python tests/bench/sim_speed.py [--turns N] [--run-mb N] [--json FILE]`.
"""

import argparse
import json
import os
import resource
import secrets
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hdl.registers import engine_map as regs
from hdl.registers.types import Register
from hdl.sources import rtl_sources
from hdl.verilator.bench import run_bench
from hdl.verilator.recipe import MAKE_FLAGS
from hdl.verilator.toolchain import find_toolchain
from hdl.verilator.verilate import simulation_flags
from rig.board.sim import SimBoard, announce
from rig.engine.driver import Engine, Operation, Record, RecordStatus

HERE = Path(__file__).parent
TOP = "drive_crypto"
WORD_BYTES = 16
AAD = bytes(WORD_BYTES)
KEY_BYTES = 32

SIZES = {"": 262144, "_2k": 2048}
TURN_BYTES = 16 << 20  # long enough that filling and draining the path do not count for much
AXI_TURN_BYTES = 256 << 10  # fifty times slower, and as steady

RUN_FILES = 8
RUN_LAB = """\
name: sim-speed
boards: {sim: {kind: sim, clock_mhz: 62.5}}
drives: [{serial: TR0000000001, model: TS1120, board: sim}]
tokens: {ekm: {module: softhsm, label: taperig-ekm}}
ekms: [{name: main, host: 127.0.0.1, port: 0, start: true, token: ekm}]
keks: [{label: Speed Key 1}, {label: Speed Key 2}]
pools:
  1:
    encrypt: true
    keys: [{label: Speed Key 1, mode: clear}, {label: Speed Key 2, mode: hash}]
scenario: {cap_mb: 1}
"""


@dataclass(frozen=True)
class Work:
    """Records to encrypt, their frames, and the expected result frames."""

    key: bytes
    records: list[Record]
    frames: bytes
    results: bytes

    @property
    def megabytes(self) -> float:
        """Payload, in 10^6 bytes."""
        return sum(len(record.data) for record in self.records) / 1e6


def make_work(key: bytes, size: int, total: int) -> Work:
    """Make `total` bytes of random records of `size` bytes."""
    return encryption_work(key, [os.urandom(size) for _ in range(total // size)])


def encryption_work(key: bytes, blocks: Sequence[bytes]) -> Work:
    """Make a record to encrypt of each block."""
    cipher = AESGCM(key)
    records, frames, results = [], [], []
    for number, data in enumerate(blocks):
        record = Record(Operation.ENCRYPT, data, number.to_bytes(12, "big"), AAD)
        records.append(record)
        top = Operation.ENCRYPT.value << 28 | len(AAD) << 20 | len(data)
        frames += [top.to_bytes(4, "big"), record.iv, AAD, padded(data)]
        encrypted = cipher.encrypt(record.iv, data, AAD)
        results += [result_top(len(data)), padded(encrypted[: len(data)]), encrypted[len(data) :]]
    return Work(key, records, b"".join(frames), b"".join(results))


def padded(data: bytes) -> bytes:
    """Fill up whole words of the gates."""
    return data + bytes(-len(data) % WORD_BYTES)


def result_top(size: int) -> bytes:
    """Return the first word of the result of a record of `size` bytes."""
    top = RecordStatus.OK << 24 | Operation.ENCRYPT.value << 20 | size
    return top.to_bytes(4, "big") + bytes(12)


@dataclass(frozen=True, slots=True)
class Seconds:
    """Elapsed time and processor time."""

    wall: float
    processor: float

    @classmethod
    def of(cls, text: str) -> "Seconds":
        """Read what a child process says: the two numbers."""
        wall, processor = map(float, text.split())
        return cls(wall, processor)


KINDS: dict[str, Callable[[Seconds], float]] = {
    "": lambda seconds: seconds.wall,
    "_cpu": lambda seconds: seconds.processor,
}


class WrongResultError(Exception):
    """What came out is not what `cryptography` makes of the same records."""


def compare(path: str, found: bytes, work: Work) -> None:
    """Raise WrongResultError unless the result frames are right."""
    if found != work.results:
        raise WrongResultError(f"{path} does not encrypt as it should")


class CppLoop:
    """(c) the program of cpp_loop.cpp."""

    def __init__(self, folder: Path, key: bytes) -> None:
        """Build, start, and load the key."""
        self._folder = folder
        self._process = subprocess.Popen(
            [build_cpp_loop(folder / "cpp_loop")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._wait(regs.STATUS_SELF_TEST_DONE.mask)
        for at in range(0, KEY_BYTES, 4):
            value = int.from_bytes(key[at : at + 4], "big")
            self._ask("write", regs.PLAIN_KEY.address + at, value)
        self._write(regs.CTRL, regs.CTRL_LOAD_PLAIN.put(1))
        self._wait(regs.STATUS_KEY_VALID.mask)

    def turn(self, work: Work) -> Seconds:
        """Encrypt; return how long it took."""
        frames, results = self._folder / "frames", self._folder / "results"
        frames.write_bytes(work.frames)
        seconds = Seconds.of(self._ask("run", frames, results, len(work.records)))
        compare("The C++ loop", results.read_bytes(), work)
        return seconds

    def close(self) -> None:
        """End the program."""
        self._process.communicate()

    def _wait(self, mask: int) -> None:
        while not int(self._ask("read", regs.STATUS.address)) & mask:
            pass

    def _write(self, register: Register, value: int) -> None:
        self._ask("write", register.address, value)

    def _ask(self, *command: object) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(*command, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise ChildProcessError(f"The C++ loop ended at: {' '.join(map(str, command))}")
        return answer


def build_cpp_loop(folder: Path) -> Path:
    """Verilate the engine for cpp_loop.cpp and compile both.

    The options are those of hdl.verilator.verilate.
    """
    toolchain = find_toolchain()
    announce("Building the engine with a C++ loop around it")
    sources = [*rtl_sources(), HERE / "cpp_loop.cpp"]
    flags = [flag for flag in simulation_flags("plain") if flag != "--timing"]
    verilate = [toolchain.verilator, "--cc", "--exe", "-Mdir", folder, "--top-module", TOP]
    make = ["make", "-j", "2", "-C", folder, "-f", f"V{TOP}.mk", *MAKE_FLAGS]
    for command in ([*verilate, *flags, *sources], make):
        answer = subprocess.run(
            [str(word) for word in command],
            env=toolchain.full_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if answer.returncode != 0:
            raise ChildProcessError(f"{command[0]} failed:\n{answer.stdout}")
    return folder / f"V{TOP}"


class RigPath:
    """(b) Engine on a SimBoard."""

    def __init__(self, board: SimBoard, key: bytes) -> None:
        """Load the key."""
        self._pid = board.pid
        self._engine = Engine(board)
        self._engine.load_plain_key(key)

    def turn(self, work: Work) -> Seconds:
        """Encrypt; return how long it took."""
        begin, processor_begin = time.perf_counter(), self._processor_time()
        results = self._engine.process(work.records)
        processor = self._processor_time() - processor_begin
        seconds = Seconds(time.perf_counter() - begin, processor)
        frames = [result_top(len(each.data)) + padded(each.data) + each.tag for each in results]
        compare("The rig's path", b"".join(frames), work)
        return seconds

    def _processor_time(self) -> float:
        """Return the processor time of this process and the simulation."""
        # Linux names the processor clock of a process so: see clock_getcpuclockid(3).
        return time.process_time() + time.clock_gettime((~self._pid << 3) | 2)


class AxiAgents:
    """(a) the cocotb bench bench_axi_stream.py; every turn is a new run."""

    def __init__(self, folder: Path) -> None:
        """Remember where its files go."""
        self._folder = folder

    def turn(self, work: Work) -> Seconds:
        """Encrypt; return how long it took."""
        names = ("AXI_FRAMES", "AXI_RESULTS", "AXI_SECONDS")
        files = {name: self._folder / name.lower() for name in names}
        files["AXI_FRAMES"].write_bytes(work.frames)
        run_bench(
            "axi_stream_top",
            [*rtl_sources(), HERE / "axi_stream_top.sv"],
            "bench_axi_stream",
            module_directory=HERE,
            output_directory=self._folder / "axi",
            extra_env={
                **{name: str(path) for name, path in files.items()},
                "AXI_KEY": work.key.hex(),
                "AXI_COUNT": str(len(work.records)),
            },
        )
        compare("The AXI bench", files["AXI_RESULTS"].read_bytes(), work)
        return Seconds.of(files["AXI_SECONDS"].read_text())


@contextmanager
def all_paths(folder: Path, key: bytes) -> Iterator[dict[str, CppLoop | RigPath | AxiAgents]]:
    """Build and start everything; the names are those of the figures."""
    with ExitStack() as stack:
        board = stack.enter_context(SimBoard())
        cpp = CppLoop(folder, key)
        stack.callback(cpp.close)
        yield {"cpp": cpp, "rig": RigPath(board, key), "axi": AxiAgents(folder)}


def measure_paths(folder: Path, turns: int, figures: dict[str, float]) -> None:
    """Measure (a), (b) and (c) by turns, and store figures and ratios."""
    key = secrets.token_bytes(KEY_BYTES)
    with all_paths(folder, key) as paths:
        for suffix, size in SIZES.items():
            work = make_work(key, size, TURN_BYTES)
            little = make_work(key, size, AXI_TURN_BYTES)
            took: dict[str, list[Seconds]] = {name: [] for name in paths}
            for turn in range(turns):
                # Each goes first as often as last.
                for name in list(paths) if turn % 2 else list(reversed(paths)):
                    took[name].append(paths[name].turn(little if name == "axi" else work))
            for kind, of in KINDS.items():
                rates = {
                    name: [
                        (little if name == "axi" else work).megabytes / of(seconds)
                        for seconds in values
                    ]
                    for name, values in took.items()
                }
                for name, values in rates.items():
                    figures[f"{name}{kind}_mb_s{suffix}"] = median(values)
                for over, under in (("rig", "cpp"), ("rig", "axi")):
                    pairs = zip(rates[over], rates[under], strict=True)
                    figures[f"{over}_over_{under}{kind}{suffix}"] = median(a / b for a, b in pairs)


def measure_run(folder: Path, megabytes: float, turns: int, figures: dict[str, float]) -> None:
    """Time whole `rig run`s, each between two turns of the rig's path."""
    (folder / "lab.yaml").write_text(RUN_LAB)
    rig_run(folder, "first", 1 << 20)
    size = int(megabytes * 1e6) // RUN_FILES
    key = secrets.token_bytes(KEY_BYTES)
    work = make_work(key, SIZES[""], TURN_BYTES)
    runs, ratios = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    with SimBoard() as board:
        path = RigPath(board, key)
        before = path.turn(work)
        for turn in range(turns):
            took = rig_run(folder, f"measured{turn}", size)
            after = path.turn(work)
            for kind, of in KINDS.items():
                rate = 2 * size * RUN_FILES / 1e6 / of(took)
                runs[kind].append(rate)
                ratios[kind].append(rate * (of(before) + of(after)) / 2 / work.megabytes)
            before = after
    for kind in KINDS:
        figures[f"run{kind}_mb_s"] = median(runs[kind])
        figures[f"run_over_rig{kind}"] = median(ratios[kind])


def rig_run(folder: Path, name: str, size: int) -> Seconds:
    """Run the rig on files of `size` bytes; return how long the command took."""
    data = folder / f"{name}-data"
    data.mkdir()
    for number in range(RUN_FILES):
        (data / f"volume{number}").write_bytes(os.urandom(size))
    options = ["--lab", str(folder / "lab.yaml"), "--data", str(data), "--out", str(folder / name)]
    begin, processor_begin = time.perf_counter(), children_processor_time()
    answer = subprocess.run(
        [sys.executable, "-m", "rig", "run", "--scenario", "round_trip", *options],
        env={**os.environ, "TAPERIG_STATE": str(folder / "state")},
        capture_output=True,
        text=True,
        check=False,
    )
    processor = children_processor_time() - processor_begin
    seconds = Seconds(time.perf_counter() - begin, processor)
    if answer.returncode != 0:
        raise ChildProcessError(f"rig run failed:\n{answer.stdout}{answer.stderr}")
    return seconds


def children_processor_time() -> float:
    """Return the processor time of all ended children, and of theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure everything and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=5, help="repetitions (default 5)")
    parser.add_argument("--run-mb", type=float, default=64, help="data of the whole run; 0: no run")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args(arguments)
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="taperig-speed-") as scratch:
        folder = Path(scratch)
        measure_paths(folder, options.turns, figures)
        if options.run_mb > 0:
            measure_run(folder, options.run_mb, options.turns, figures)
    for name, value in figures.items():
        print(f"{name:20} {value:8.3f}")
    if options.json is not None:
        rounded = {name: round(value, 4) for name, value in figures.items()}
        options.json.write_text(json.dumps(rounded, indent=2) + "\n")


if __name__ == "__main__":
    main()
