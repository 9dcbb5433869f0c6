"""Measure the simulated engine by record size.

It prints bytes a clock (the engine's own counters) and host MB/s.

Run as `python tests/bench/sim_rate.py [MB for each measurement]`; MB = 10^6 bytes.  Bytes a clock
is what the gates do, from counted clocks; host MB/s is how fast this machine simulates them.
"""

import argparse
import os
import secrets
import time

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from rig.board.sim import SimBoard
from rig.engine.driver import Engine, Operation, Record, RecordStatus

SIZES = (2048, 8192, 32768, 65536, 262144)
AAD = bytes(24)


def record(operation: Operation, key: bytes, size: int) -> Record:
    """Return a random record; to decrypt, one that `cryptography` encrypted."""
    data, iv = os.urandom(size), os.urandom(12)
    if operation is Operation.BYPASS:
        return Record(operation, data)
    if operation is Operation.ENCRYPT:
        return Record(operation, data, iv, AAD)
    sealed = AESGCM(key).encrypt(iv, data, AAD)
    return Record(operation, sealed[:-16], iv, AAD, sealed[-16:])


def main() -> None:
    """Print one line for each operation and record size."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("megabytes", nargs="?", type=float, default=4.0)
    total = int(arguments.parse_args().megabytes * 1e6)
    begin = time.perf_counter()
    with SimBoard() as board:
        engine = Engine(board)
        print(f"start to self test done: {time.perf_counter() - begin:.2f} s")
        key = secrets.token_bytes(32)
        engine.load_plain_key(key)
        print(
            f"{'operation':10} {'record':>8} {'bytes/clock':>12} {'of 16':>7} "
            f"{'MB/s at clock':>14} {'host MB/s':>10} {'kclocks/s':>10}"
        )
        for operation in Operation:
            for size in SIZES:
                one = record(operation, key, size)
                records = [one] * max(1, total // size)
                engine.clear_counters()
                begin = time.perf_counter()
                results = engine.process(records)
                seconds = time.perf_counter() - begin
                counted = engine.counters()
                if any(result.status is not RecordStatus.OK for result in results):
                    raise SystemExit(f"{operation.name} of {size} bytes failed")
                per_clock = counted.bytes / counted.cycles_busy
                print(
                    f"{operation.name:10} {size:8} {per_clock:12.3f} {per_clock / 16:7.4f} "
                    f"{per_clock * engine.clock_hz / 1e6:14.1f} "
                    f"{counted.bytes / seconds / 1e6:10.2f} "
                    f"{counted.cycles_busy / seconds / 1e3:10.0f}"
                )


if __name__ == "__main__":
    main()
