"""The command of a key manager.

Run it as ``python -m hsm.ekm.service.front CONFIG``. It starts the first worker before its own
imports, so that both import at the same time; then it serves (``hsm.ekm.service.server``).
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from hsm.child_process import end_with_parent
from hsm.crash_log import USER_ERROR, run_main
from hsm.ekm.service.worker_process import WorkerProcess
from hsm.errors import TaperigError


def main(arguments: Sequence[str] = tuple(sys.argv[1:])) -> int:
    """Run a key manager: ``CONFIG`` is a file, or ``-`` for standard input."""
    match arguments:
        case [path]:
            pass
        case [path, "--die-with", parent]:
            end_with_parent(int(parent))
        case _:
            print("usage: python -m hsm.ekm.service.front CONFIG", file=sys.stderr)
            return USER_ERROR
    with WorkerProcess() as first_worker:
        gc.disable()  # what the imports make stays
        from hsm.ekm.config import load_config, parse_config
        from hsm.ekm.logs import LOG
        from hsm.ekm.service.server import serve

        gc.freeze()
        gc.enable()
        try:
            config = (
                parse_config(sys.stdin.read(), "standard input")
                if path == "-"
                else load_config(Path(path))
            )
            LOG.configure(config.log_format, config.log_level, f"front {os.getpid()}")
            with suppress(KeyboardInterrupt):
                serve(config, first_worker=first_worker)
        except TaperigError as error:
            print(error, file=sys.stderr)
            return USER_ERROR
    return 0


if __name__ == "__main__":
    run_main(main, "The key manager")
