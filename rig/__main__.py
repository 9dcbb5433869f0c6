"""The process of the ``rig`` command: how it ends, whatever happens in it.

Exit codes: 0 all holds; 1 judged and failed, or work left undone and named; 2 the command could not
do its work, and one sentence on standard error says why; 128 + N interrupted by signal N (130
SIGINT, 143 SIGTERM, 129 SIGHUP). Nothing but the standard library is imported before `main` runs.
"""

from __future__ import annotations

import gc
import io
import os
import select
import signal
import sys
import threading
from contextlib import suppress
from types import FrameType
from typing import NoReturn

_COLLECT_AFTER_OBJECTS = 50_000


class _Signalled(SystemExit):
    """A signal that ends the process in good order.

    It goes up as an exception does: children stop, files are closed.
    """


def main() -> NoReturn:
    """Run the command line and exit."""
    # Looking for cycles among what the imports make takes a quarter of a short command's time.
    gc.set_threshold(_COLLECT_AFTER_OBJECTS)
    try:
        code = _run()
    except KeyboardInterrupt:  # a second one, while the first was obeyed
        code = 128 + signal.SIGINT
    with suppress(OSError, ValueError):
        sys.stderr.flush()
    gc.freeze()  # the process ends: no last search for cycles, which takes 0.1 s
    sys.exit(code)


def _run() -> int:
    failed_threads: list[BaseException] = []
    try:
        _obey_signals()
        _prepare_streams()
        threading.excepthook = lambda thread: _thread_failed(thread, failed_threads)
        from rig.cli.main import run_command_line

        code = run_command_line(sys.argv[1:])
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = _interrupted(128 + signal.SIGINT)
    except _Signalled as ending:
        code = _interrupted(int(str(ending.code)))
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else 2 * bool(ending.code)
    except BaseException as error:
        code = _failed(error)
    return 2 if failed_threads else code


def _obey_signals() -> None:
    """Let SIGTERM and SIGHUP end the process in good order.

    One that is ignored (nohup) stays so.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)  # once is enough; what follows cleans up
    raise _Signalled(128 + number)


def _prepare_streams() -> None:
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: the next file opened would be taken for it
            os.open(os.devnull, os.O_RDWR)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # File names need not be in the locale's encoding, and a log shows each line at once.
        sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: PTH123, SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: PTH123, SIM115


def _interrupted(code: int) -> int:
    _say("interrupted")
    _let_go_of_output()
    return code


def _thread_failed(thread: threading.ExceptHookArgs, failed: list[BaseException]) -> None:
    if thread.exc_value is not None and not isinstance(thread.exc_value, SystemExit):
        failed.append(thread.exc_value)
        _failed(thread.exc_value)


def _failed(error: BaseException) -> int:
    """Say in one sentence what ended the command; return its exit code."""
    from hsm.crash_log import report
    from hsm.errors import TaperigError

    if isinstance(error, TaperigError):
        _say(str(error))
    elif isinstance(error, BrokenPipeError) and _reader_is_gone():
        _say("Standard output was closed before all was written to it.")
    else:
        _say(report(error, _command()))
    _let_go_of_output()
    return 2


def _command() -> str:
    """Return the words of the command line that name the command."""
    words = []
    for word in sys.argv[1:4]:
        if not word.isascii() or not word.replace("-", "").isalpha() or word.startswith("-"):
            break
        words.append(word)
    return " ".join(["`rig", *words]) + "`"


def _reader_is_gone() -> bool:
    poll = select.poll()
    poll.register(1, select.POLLOUT)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _say(words: str) -> None:
    """Print a line on standard error."""
    from rig.report.text import printable

    with suppress(OSError, ValueError):
        print(f"rig: {printable(words)}", file=sys.stderr, flush=True)


def _let_go_of_output() -> None:
    """Keep Python from failing again when it flushes at its end."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


if __name__ == "__main__":
    main()
