"""Report unexpected errors: one sentence, and a file with the traceback.

The file is in the state folder (``$TAPERIG_STATE``, else the user's own), under ``errors``, or in
the temporary folder when that one cannot be written. It has no values of variables, and byte
strings, inputs and long numbers are removed from exception texts, so that it never has a key or a
PIN.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

from hsm.errors import TaperigError
from hsm.files import cure

USER_ERROR: Final = 2
STATE_VARIABLE: Final = "TAPERIG_STATE"

_PACKAGES: Final = Path(__file__).parents[1]
_SECRETS: Final = (
    (re.compile(r"\bb(['\"]).*?\1", re.S), "b'...'"),
    (re.compile(r"input_value=.*?(?=, input_type=|\]|$)", re.S), "input_value=..."),
    (re.compile(r"[0-9A-Fa-f]{24,}"), "..."),
    (re.compile(r"(?<![\w/.+-])[A-Za-z0-9+][A-Za-z0-9+/_-]{39,}={0,2}"), "..."),
    (re.compile(r"((?:invalid literal|could not convert)[^:]*: ).*", re.S), r"\1..."),
    (re.compile(r"'(?=[^'\n/]*\d)[^'\n/]{4,}'"), "'...'"),
    (re.compile(r"\d{4,}"), "..."),
)


def report(error: BaseException, command: str) -> str:
    """Write an error's traceback to a file; return a sentence that names it."""
    path = _write(error, command)
    where = f"the traceback is in {path}" if path else "no file for the traceback could be written"
    return f"{_reason(error, command)}; {where}."


def run_main(main: Callable[[], int], command: str) -> NoReturn:
    """Run a program's main function, and end the process.

    Any error is printed in one sentence. The interpreter does not take itself apart, which lasts 10
    to 30 ms and is waited for: nothing registered with ``atexit`` is called.
    """
    try:
        code = main()
    except TaperigError as error:
        code, sentence = USER_ERROR, str(error)
    except Exception as error:
        code, sentence = USER_ERROR, report(error, command)
    else:
        sentence = ""
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    with suppress(OSError, ValueError):
        if sentence:
            print(sentence, file=sys.stderr)
        sys.stderr.flush()
    os._exit(code)


def _reason(error: BaseException, command: str) -> str:
    """Return what ended the command and, where possible, what to do."""
    if isinstance(error, ModuleNotFoundError) and error.name is not None:
        package = error.name.partition(".")[0]
        return f"{command} needs the Python package {package}, which is missing; run `make setup`"
    if isinstance(error, MemoryError):
        return f"{command} ran out of memory; close other programs or give it less data"
    if isinstance(error, OSError) and error.strerror:
        file = f" ({error.filename})" if isinstance(error.filename, str) else ""
        what_to_do = cure(error)
        words = f"{command} failed: {error.strerror}{file}"
        return f"{words}; {what_to_do}" if what_to_do else words
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename.startswith(f"{_PACKAGES}{os.sep}")]
    place = ""
    if own:
        place = f" in {Path(own[-1].filename).relative_to(_PACKAGES)}, line {own[-1].lineno}"
    return f"Internal error of {command} ({type(error).__name__}{place}), please report it"


def _write(error: BaseException, command: str) -> Path | None:
    with suppress(Exception):
        text = f"{time.strftime('%Y-%m-%d %H:%M:%S %z')}  {command}\n\n{_traceback(error)}"
        for folder in (_error_folder, _temporary_folder):
            with suppress(OSError, RuntimeError):  # RuntimeError: the home folder is not known
                return _write_in(folder(), text)
    return None


def _write_in(folder: Path, text: str) -> Path:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    prefix = time.strftime("taperig-%Y%m%d-%H%M%S-")
    handle, name = tempfile.mkstemp(dir=folder, prefix=prefix, suffix=".log")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
    return Path(name)


def _error_folder() -> Path:
    if chosen := os.environ.get(STATE_VARIABLE):
        return Path(chosen).expanduser().absolute() / "errors"
    import platformdirs

    return platformdirs.user_state_path("taperig") / "errors"


def _temporary_folder() -> Path:
    return Path(tempfile.gettempdir())


def _traceback(error: BaseException) -> str:
    """Return the traceback with its causes, without secrets."""
    formatted = traceback.TracebackException.from_exception(error, limit=-50, capture_locals=False)
    lines: list[str] = []
    for line in formatted.format():
        lines.append(line if line.lstrip().startswith("File ") else _without_secrets(line))
    return "".join(lines)


def _without_secrets(words: str) -> str:
    for pattern, replacement in _SECRETS:
        words = pattern.sub(replacement, words)
    return words
