"""The runs in a folder: each has a folder named by the time it began."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hsm.errors import TaperigError
from hsm.files import read_limited

_NAME = re.compile(r"\d{8}-\d{6}(-\d{1,3})?")
_FORMATS = ("taperig-results-1", "taperig-results-2")
_KEYS = {"verdict", "error", "started", "duration_s", "scenarios"}
_LOCK = ".under-way"
_BEGINNING_S = 60.0
"""A folder without lock and results that is younger than this belongs to a run that begins."""
_MAX_RESULTS_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run's folder and its results.

    ``results`` is the content of results.json, None where it cannot be read.
    """

    folder: Path
    results: dict[str, Any] | None
    under_way: bool

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.folder.name

    @property
    def verdict(self) -> str:
        """The verdict of results.json, ``under way`` or ``unfinished``."""
        if self.under_way:
            return "under way"
        return "unfinished" if self.results is None else str(self.results["verdict"])

    @property
    def began(self) -> float:
        """Seconds since 1970, UTC."""
        if self.results is not None:
            return float(self.results["started"])
        return time.mktime(time.strptime(self.name[:15], "%Y%m%d-%H%M%S"))

    def size(self) -> int:
        """Return the bytes of its files."""
        total = 0
        for folder, _, names in os.walk(self.folder):
            for name in names:
                with suppress(OSError):  # a run under way makes and removes files
                    total += (Path(folder) / name).lstat().st_size
        return total

    def files(self) -> list[Path]:
        """Return the files in it; those in subfolders are left out."""
        return sorted(path for path in self.folder.iterdir() if path.is_file())


class StoredRunsError(TaperigError):
    """The folder of the runs cannot be read."""


@contextmanager
def under_way(folder: Path) -> Iterator[None]:
    """Mark a folder as that of a run under way.

    The mark ends with this process at the latest.
    """
    path = folder / _LOCK
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def stored_runs(folder: Path) -> list[StoredRun]:
    """Return the runs in a folder, the oldest first.

    A folder that is not there holds none. Raises StoredRunsError when it cannot be read.
    """
    try:
        paths = list(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoredRunsError(
            f"The runs in {folder} cannot be read ({error.strerror}); set TAPERIG_STATE to a "
            "folder that you can read."
        ) from None
    runs = [
        _stored(path)
        for path in paths
        if _NAME.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
    ]
    return sorted(runs, key=lambda run: (run.began, run.name))


def remove(run: StoredRun) -> None:
    """Remove a run with all that is in its folder; raises OSError."""
    shutil.rmtree(run.folder)


def reasons(results: dict[str, Any]) -> list[str]:
    """Return the reasons of the verdict: all that failed, by scenario."""
    lines = [] if results["error"] is None else [str(results["error"])]
    for scenario in results["scenarios"]:
        name = scenario["name"]
        if scenario["error"] is not None:
            lines.append(f"{name}: {scenario['error']}")
        for step in scenario["steps"]:
            if step["outcome"] == "failed":
                why = step["detail"].get("error", step["text"])
                lines.append(f"{name}: step {step['step']} {step['volume'] or ''}: {why}")
            elif step["outcome"] == "interrupted":
                lines.append(f"{name}: step {step['step']} {step['volume'] or ''}: interrupted")
        for check in scenario["checks"]:
            if check["verdict"] == "fail":
                detail = f": {check['detail']}" if check["detail"] else ""
                lines.append(f"{name}: {check['name']}{detail}")
        for item in scenario["measurements"]:
            if item["verdict"] == "fail":
                limits = " ".join(
                    f"{word} {item[limit]:g}"
                    for word, limit in (("at least", "minimum"), ("at most", "maximum"))
                    if item[limit] is not None
                )
                value = "no value" if item["value"] is None else f"{item['value']:g}"
                # Runs before the clock was measured do not say how it is known.
                assumed = " (assumed clock)" if item.get("assumed_clock") else ""
                lines.append(
                    f"{name}: {item['name']} is {value} {item['unit']}{assumed}, not {limits}"
                )
        if scenario["verdict"] == "fail" and not (scenario["checks"] or scenario["measurements"]):
            lines.append(f"{name}: it judged nothing")
    return lines


def _stored(folder: Path) -> StoredRun:
    results = _read(folder / "results.json")
    lock = folder / _LOCK
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return StoredRun(folder, results, under_way=True)
    except OSError:
        pass
    # Its process is gone, or is about to lock the folder.
    begins = results is None and time.time() - folder.stat().st_mtime < _BEGINNING_S
    return StoredRun(folder, results, under_way=begins)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        results = json.loads(read_limited(path, _MAX_RESULTS_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    if (
        not isinstance(results, dict)
        or results.get("format") not in _FORMATS
        or not results.keys() >= _KEYS
    ):
        return None
    return results
