"""Load a configuration file, report all its mistakes, and write one.

YAML is imported when it is read or written: a worker gets its configuration without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from hsm.configuration.diagnostics import describe_all
from hsm.configuration.part import Location, Part
from hsm.errors import TaperigError
from hsm.files import read_limited

P = TypeVar("P", bound=Part)
Mistakes = Iterable[tuple[Location, str]]


def load(
    model: type[P],
    path: Path,
    error: type[TaperigError],
    cross_check: Callable[[P], Mistakes] = lambda content: (),
) -> P:
    """Load a configuration file; relative paths start at its folder.

    Raises ``error`` with a line for each mistake: file, line, what is wrong, what would be right.
    """
    from hsm.configuration.yaml_source import MAX_BYTES

    try:
        text = read_limited(path, MAX_BYTES).decode("utf-8")
    except OSError as cause:
        raise error(
            f"{model.file_kind.capitalize()} {path} cannot be read ({cause.strerror}); "
            f"{model.file_hint}."
        ) from None
    except UnicodeDecodeError as cause:
        raise error(f"{path}: byte {cause.start} is not UTF-8; save it as UTF-8.") from None
    return parse(model, text, str(path), path.absolute().parent, error, cross_check)


def parse(
    model: type[P],
    text: str,
    name: str,
    folder: Path,
    error: type[TaperigError],
    cross_check: Callable[[P], Mistakes] = lambda content: (),
) -> P:
    """Parse YAML text, which messages call ``name``.

    Relative paths start at ``folder``. Raises as ``load`` does.
    """
    from hsm.configuration.yaml_source import YamlMistakeError, read_yaml, sentences

    try:
        data, lines = read_yaml(text)
    except YamlMistakeError as mistake:
        raise error(f"{name}:{mistake.line}: {mistake.text}") from None
    try:
        content = model.model_validate(data, context={"folder": folder})
    except ValidationError as wrong:
        raise error(sentences(name, lines, describe_all(model, wrong, data))) from None
    mistakes = list(cross_check(content))
    if mistakes:
        raise error(sentences(name, lines, mistakes))
    return content


def dump(content: Part) -> str:
    """Return a configuration as YAML with absolute paths, for ``parse``."""
    import yaml

    plain = content.model_dump(mode="json", exclude_none=True)
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
