"""The help of every command, at terminals of 80 and 60 columns."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main
from typer.core import TyperArgument

from rig.cli.main import app
from tests.support.rig_command import rig


def walk(command: Any, words: tuple[str, ...] = ("rig",)) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield words, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from walk(inner, (*words, name))


COMMANDS = dict(walk(typer.main.get_command(app)))


def help_of(words: tuple[str, ...]) -> str:
    context: Any = None
    for depth in range(1, len(words) + 1):
        command = COMMANDS[words[:depth]]
        context = typer.Context(command, info_name=words[depth - 1], parent=context)
    return str(COMMANDS[words].get_help(context))


@pytest.mark.parametrize("columns", [80, 60])
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_cuts_no_line_and_fits_the_terminal(
    monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for line in help_of(words).splitlines():
        assert len(line) <= columns, line
        assert not re.search(r"[a-z,;:]\.\.\.$", line), line


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_gives_every_option_a_text_and_a_metavar(words: tuple[str, ...]) -> None:
    command = COMMANDS[words]
    assert command.help, words
    for parameter in command.params:
        assert parameter.help, (words, parameter.name)
        if isinstance(parameter, TyperArgument) or not parameter.is_flag:
            assert parameter.metavar, (words, parameter.name)
    text = help_of(words)
    assert "<" not in text, text


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_begins_with_one_short_line(words: tuple[str, ...]) -> None:
    first, *rest = COMMANDS[words].help.strip().splitlines()
    assert len(first) <= 72
    assert first.endswith(".")
    assert not rest or not rest[0]


def test_help_lists_the_commands_in_groups() -> None:
    ended = rig("--help", COLUMNS="80")
    assert ended.code == 0
    for heading in ("Test and judge:", "Operate:", "Set up:", "Examples:"):
        assert heading in ended.out.splitlines()
    narrow = rig("ve", "--help", COLUMNS="60")
    assert "\nSettings:\n  pools" in narrow.out
    assert max(map(len, narrow.out.splitlines())) <= 60
