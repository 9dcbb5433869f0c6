"""Help texts: commands in groups, real metavars, plain text at any width."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup
from typer.main import get_command_name

Row = tuple[str, str]


def _argument_name(argument: TyperArgument) -> str:
    """Return the metavar, as ``FILE`` or ``FILE...``."""
    return (argument.metavar or str(argument.name).upper()) + ("..." if argument.nargs != 1 else "")


def _usage(command: Any, ctx: Any) -> list[str]:
    pieces = ["[OPTIONS]"]
    for parameter in command.get_params(ctx):
        if isinstance(parameter, TyperArgument):
            name = _argument_name(parameter)
            pieces.append(name if parameter.required else f"[{name}]")
    return pieces


def parameter_rows(command: Any, ctx: Any) -> dict[str, list[Row]]:
    """Return the arguments and options of a command with their texts."""
    rows: dict[str, list[Row]] = {"Arguments": [], "Options": []}
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is None:
            continue
        name, text = record[0], _with_range_in_words(record[1])
        if isinstance(parameter, TyperArgument):
            rows["Arguments"].append((_argument_name(parameter), text))
        else:
            rows["Options"].append((name, text))
    return rows


def _write_parameters(command: Any, ctx: Any, formatter: Any) -> None:
    for title, rows in parameter_rows(command, ctx).items():
        _write_section(formatter, title, rows)


def _with_range_in_words(text: str) -> str:
    """Return a help text with its range as ``1 to 5``, not ``1<=x<=5``."""
    text = re.sub(r"([-\d.]+)<=x<=([-\d.]+)", r"\1 to \2", text)
    text = re.sub(r"x>=([-\d.]+)", r"at least \1", text)
    return re.sub(r"x<=([-\d.]+)", r"at most \1", text)


def _write_section(formatter: Any, title: str, rows: Sequence[Row]) -> None:
    if rows:
        with formatter.section(title):
            formatter.write_dl(rows)


class Command(TyperCommand):
    """A command whose arguments are shown by their metavars."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the words of the usage line after the command's name."""
        return _usage(self, ctx)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options, each with its text."""
        _write_parameters(self, ctx, formatter)


class Group(TyperGroup):
    """A group that lists its commands under headings and cuts no line."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the words of the usage line after the group's name."""
        return [*_usage(self, ctx), "COMMAND [ARGS]..."]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options, then the commands."""
        _write_parameters(self, ctx, formatter)
        self.format_commands(ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands under their headings, with their first sentences."""
        groups: dict[str, list[Row]] = {}
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            if command is None or command.hidden:
                continue
            heading = getattr(command, "rich_help_panel", None) or "Commands"
            groups.setdefault(heading, []).append((name, first_sentence(command)))
        for heading, rows in groups.items():
            _write_section(formatter, heading, rows)


class ExampleGroup(Group):
    """A group whose epilog is a list of examples, then paragraphs.

    Each line of the list is ``command  what it does``.
    """

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples as a list, so that they wrap as the rest does."""
        examples, _, rest = (self.epilog or "").strip().partition("\n\n")
        rows = [
            tuple(part.strip() for part in line.split("  ", 1)) for line in examples.splitlines()
        ]
        with formatter.section("Examples"):
            formatter.write_dl(rows, col_max=36)
        if rest:
            formatter.write_paragraph()
            formatter.write_text(rest)


class CommandLine(typer.Typer):
    """Commands of one level; without arguments it shows its help."""

    def __init__(
        self, *, cls: type[Group] = Group, no_args_is_help: bool = True, **options: Any
    ) -> None:
        """Take the options of typer.Typer."""
        super().__init__(
            cls=cls,
            no_args_is_help=no_args_is_help,
            rich_markup_mode=None,
            pretty_exceptions_enable=False,
            **options,
        )

    def command(self, name: str | None = None, **options: Any) -> Callable[[Any], Any]:
        """Register a command, as typer.Typer does."""
        return super().command(name, cls=Command, **options)


def branch(commands: typer.Typer, words: Sequence[str]) -> typer.Typer:
    """Return the commands without those that the words do not name.

    To build the options of all takes a tenth of a second. Where the first word is not a command's
    name, all stay, for help and for the nearest name.
    """
    word = words[0] if words else None
    chosen = copy(commands)
    for group in commands.registered_groups:
        if group.name == word and group.typer_instance is not None:
            only = copy(group)
            only.typer_instance = branch(group.typer_instance, words[1:])
            chosen.registered_groups, chosen.registered_commands = [only], []
    for command in commands.registered_commands:
        if word == (command.name or get_command_name(getattr(command.callback, "__name__", ""))):
            chosen.registered_groups, chosen.registered_commands = [], [command]
    return chosen


def first_sentence(command: Any) -> str:
    """Return the short help of a command, else its first paragraph."""
    text = command.short_help or (command.help or "").strip().split("\n\n")[0]
    return " ".join(str(text).split())
