"""Read results.json of earlier runs, checked by its schema."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import Any, Final

from hsm.errors import TaperigError
from hsm.files import read_limited
from rig.results.results import FORMAT, SCHEMA_PATH

MAX_BYTES: Final = 64 << 20
_MOST_DIGITS: Final = 30
_NAME: Final = "results.json"
_MOST_RUNS: Final = 1000


class ResultsFileError(TaperigError):
    """A file is no results.json that this rig reads."""


def find_results(path: Path) -> dict[str, Path]:
    """Return the results at a path, by their names within it.

    A file, or the folder of a run, is one, named ``""``. In another folder it is each run's folder
    and each ``.json`` file. Raises ResultsFileError.
    """
    try:
        if not path.is_dir():
            return {"": path}
        if (path / _NAME).exists():
            return {"": path / _NAME}
        inner = [*path.glob(f"*/{_NAME}"), *path.glob("*.json")]
    except OSError as error:
        raise ResultsFileError(f"{path} cannot be read ({error.strerror}).") from None
    if not inner:
        raise ResultsFileError(
            f"The folder {path} holds no results: neither {_NAME} nor a run's folder with one; "
            "name one that `rig run` wrote."
        )
    if len(inner) > _MOST_RUNS:
        raise ResultsFileError(
            f"The folder {path} holds {len(inner):,} results, more than {_MOST_RUNS:,}; name a "
            "smaller one."
        )
    names = {
        each: str((each.parent if each.name == _NAME else each).relative_to(path)) for each in inner
    }
    return {names[each]: each for each in sorted(inner)}


def read_one(path: Path) -> dict[str, Any]:
    """Return the content of the only results at a path.

    Raises ResultsFileError.
    """
    found = find_results(path)
    if "" not in found:
        raise ResultsFileError(
            f"The folder {path} holds {len(found)} results of runs; name one of them."
        )
    return read_results(found[""])


def pair_results(old: Path, new: Path) -> dict[str, tuple[Path | None, Path | None]]:
    """Return the results of the same name at two paths; None: one has none.

    Raises ResultsFileError when they have nothing in common.
    """
    before, after = find_results(old), find_results(new)
    if not before.keys() & after.keys():
        raise ResultsFileError(
            f"{old} and {new} cannot be compared: they hold no run of the same name; name two "
            "results.json, two folders of a run, or two folders with runs of the same names."
        )
    names = [*before, *(name for name in after if name not in before)]
    return {name: (before.get(name), after.get(name)) for name in names}


def read_results(path: Path) -> dict[str, Any]:
    """Return the content of a results.json; raises ResultsFileError."""
    try:
        content = read_limited(path, MAX_BYTES)
    except OSError as error:
        raise ResultsFileError(
            f"The results {path} cannot be read ({error.strerror}); name a results.json, or the "
            "folder of a run."
        ) from None
    try:
        results = json.loads(
            content, parse_int=_integer, parse_float=_number, parse_constant=_number
        )
    except (ValueError, RecursionError):
        raise _no_results(path, "it is no whole JSON text") from None
    if not isinstance(results, dict) or "format" not in results:
        raise _no_results(path, "it has no format")
    if results["format"] != FORMAT:
        raise _no_results(
            path,
            f"its format is {str(results['format'])[:40]!r}, and this rig reads {FORMAT!r}",
        )
    mistake = _first_mistake(results)
    if mistake is not None:
        raise _no_results(path, mistake)
    return results


def _first_mistake(results: dict[str, Any]) -> str | None:
    """Return a mistake by the schema, if there is one, without its value."""
    from jsonschema.exceptions import best_match

    error = best_match(_validator().iter_errors(results))
    if error is None:
        return None
    place = "/".join(str(step)[:40] for step in error.absolute_path)
    if error.validator == "required":
        missing = next(name for name in error.validator_value if name not in error.instance)
        return f"{place or 'it'} has no {missing!r}"
    return f"{place or 'one of its members'} is not as the schema says"


@cache
def _validator() -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(json.loads(SCHEMA_PATH.read_text(encoding="utf-8")))


def _integer(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError("too many digits")
    return int(digits)


def _number(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError("no finite number")
    return value


def _no_results(path: Path, why: str) -> ResultsFileError:
    return ResultsFileError(
        f"{path} is no results.json that can be compared: {why}; name one of a run of this version."
    )
