"""Commands, options, make targets and paths that the pages name exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from rig.cli.main import app
from rig.scenarios.runner import SCENARIOS
from tests.support import markdown
from tests.support.rig_command import PROJECT

PAGES = [pytest.param(page, id=str(page.relative_to(PROJECT))) for page in markdown.pages()]
ROOMS = ("rig", "hsm", "hdl", "tests", "docs", "fixtures", ".ci")
PATH = re.compile(rf"(?<![\w/.~$-])(?:{'|'.join(map(re.escape, ROOMS))})/[\w./*-]+")
SOURCE = re.compile(r"[\w/]+\.(?:py|sv|rdl|sby|vlt|cpp)")
VARIABLE = re.compile(r"\bTAPERIG_[A-Z_]+\b")
TARGETS = set(re.findall(r"^([a-z]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
ROOT = typer.main.get_command(app)


def mistake_of_rig(arguments: list[str]) -> str | None:
    """What the command's own parser says is wrong with a `rig` line."""
    command: Any = ROOT
    path = "rig"
    arguments = list(arguments)
    while hasattr(command, "commands"):
        if not arguments or arguments[0].startswith("-"):
            return _mistake_of_options(command, path, arguments)
        name = arguments.pop(0)
        if name not in command.commands:
            return f"{path} has no command {name}"
        command, path = command.commands[name], f"{path} {name}"
    return _mistake_of_options(command, path, arguments)


def _mistake_of_options(command: Any, path: str, arguments: list[str]) -> str | None:
    if "--help" in arguments:
        return None
    parser = command.make_parser(command.context_class(command, info_name=path))
    try:
        values, left, _ = parser.parse_args(list(arguments))
    except Exception as error:  # typer gives its own copy of click's errors no public name
        return f"{path}: {error}"
    if left:
        return f"{path} takes no argument {left[0]}"
    for name in values.get("scenario") or ():
        if name not in SCENARIOS and not name.isupper():
            return f"{path}: there is no scenario {name}"
    missing = [each.name for each in command.params if each.required and not values.get(each.name)]
    return f"{path} needs {missing[0]}" if missing else None


def mistake_of_make(arguments: list[str]) -> str | None:
    """What is wrong with a `make` command line."""
    target, assignments = "", {}
    for word in arguments:
        name, sign, value = word.partition("=")
        if sign:
            assignments[name] = value
        else:
            target = word
    if target not in TARGETS:
        return f"the Makefile has no target {target}"
    if target == "run" and "ARGS" in assignments:
        return mistake_of_rig(["run", *assignments["ARGS"].split()])
    return None


def mistakes(command: str) -> Iterator[str]:
    for simple in markdown.words(command):
        if not simple:
            continue
        name, arguments = simple[0], simple[1:]
        if name in ("rig", ".venv/bin/rig"):
            found = mistake_of_rig(arguments)
        elif name == "make":
            found = mistake_of_make(arguments)
        else:
            found = None
        if found:
            yield found


def missing_paths(page: Path, text: str) -> Iterator[str]:
    for match in PATH.finditer(text):
        name = match.group().rstrip(".")
        if not any(PROJECT.glob(name)) and not any(page.parent.glob(name)):
            yield f"there is no {name}"


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_code_blocks_exist(page: Path) -> None:
    assert not [
        f"{place}: {mistake}"
        for place in markdown.commands(page)
        for mistake in [*mistakes(place.text), *missing_paths(page, place.text)]
    ]


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_paths_in_the_text_exist(page: Path) -> None:
    found = []
    for span in markdown.code_spans(page):
        command = span.text if span.text.startswith(("rig ", "make ")) else ""
        wrong = [*_mistakes_of_span(command), *missing_paths(page, span.text)]
        found += [f"{span}: {mistake}" for mistake in wrong]
    assert not found


def _mistakes_of_span(command: str) -> Iterator[str]:
    """As of a command line, but arguments may be left out."""
    yield from (each for each in mistakes(command) if " needs " not in each)


@pytest.mark.parametrize("page", PAGES)
def test_sources_and_variables_in_the_text_exist(page: Path) -> None:
    sources, code = _sources(), _variables()
    for span in markdown.code_spans(page):
        if SOURCE.fullmatch(span.text):
            assert Path(span.text).name in sources, str(span)
        for name in VARIABLE.findall(span.text):
            assert name in code, str(span)


@cache
def _sources() -> frozenset[str]:
    """The names of the project's files."""
    return frozenset(path.name for room in ROOMS for path in (PROJECT / room).rglob("*.*"))


@cache
def _variables() -> frozenset[str]:
    """The environment variables that the project's code names."""
    files = [PROJECT / "Makefile", *PROJECT.glob(".ci/*")]
    files += [path for room in ROOMS[:4] for path in (PROJECT / room).rglob("*.py")]
    return frozenset(
        name for path in files for name in VARIABLE.findall(path.read_text(encoding="utf-8"))
    )


@pytest.mark.parametrize("page", PAGES)
def test_indented_code_is_fenced(page: Path) -> None:
    """So that every block says its language and is checked by it."""
    assert not [
        f"{page.relative_to(PROJECT)}:{block.line}"
        for block in markdown.blocks(page)
        if not block.info
    ]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("rig run --wave", "rig run"),
        ("rig ve nothing", "no command nothing"),
        ("rig run extra", "takes no argument extra"),
        ("rig run --scenario nothing", "no scenario nothing"),
        ("rig cartridge show", "needs file"),
        ("make nothing", "no target nothing"),
        ('make run ARGS="--nothing"', "rig run"),
        ("true && rig nothing", "no command nothing"),
    ],
)
def test_a_command_that_does_not_exist_is_found(command: str, words: str) -> None:
    (mistake,) = mistakes(command)
    assert words in mistake
