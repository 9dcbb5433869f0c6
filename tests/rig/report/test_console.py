"""Lines of steps and tables, at terminals of several widths and elsewhere."""

from __future__ import annotations

import pytest

from rig.cli.tables import print_table
from rig.report.console import ConsoleReport
from rig.report.tables import table_lines
from rig.report.text import plural
from rig.results.events import Event

WORDS = "send the pool's key labels and modes to the drive, then begin to write under encryption"
STEP = Event("BOT-2a", WORDS, "TAP001", 0.0, 0.0123, "ok")


@pytest.mark.parametrize("columns", [40, 60, 80, 100, None])
def test_step_is_whole_and_fits_the_width(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int | None
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", str(columns))
    report = ConsoleReport()
    report.step_heading()
    report.step(STEP)
    head, *lines = capsys.readouterr().out.splitlines()
    assert max(map(len, [head, *lines])) <= (columns or 100)
    assert lines[0].split()[:2] == ["BOT-2a", "TAP001"]
    assert lines[0].endswith("12 ms  ok")
    assert lines[0].index("12 ms") + 5 == head.index("time") + 4
    printed = " ".join(" ".join(lines).replace("BOT-2a", "").replace("TAP001", "").split())
    assert printed.replace("12 ms ok", "").replace("  ", " ").strip() == WORDS


def test_table_puts_numbers_right_and_folds_no_cell_in_a_pipe(
    capsys: pytest.CaptureFixture[str],
) -> None:
    label = "long " * 40
    rows = [{"key": label, "size": 7, "on": True}, {"key": "b", "size": 1234, "on": None}]
    print_table(rows, ("key", "size", "on"), "none")
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["key", "size", "on"]
    assert first.startswith(label)
    assert first.endswith("     7  yes")
    assert second.endswith(" 1234")
    print_table([], ("key",), "no rows")
    assert capsys.readouterr().out == "no rows\n"


def test_table_folds_cells_at_a_narrow_terminal() -> None:
    lines = table_lines(["volume", "text"], [["A00001", "word " * 30]], 60)
    assert len(lines) > 3
    assert max(map(len, lines)) <= 60
    assert sum(line.count("word") for line in lines) == 30


def test_table_takes_markup_as_text() -> None:
    assert table_lines(["a"], [["[bold]x[/bold]"]], 60)[1] == "[bold]x[/bold]"


@pytest.mark.parametrize(
    ("count", "noun", "words"),
    [
        (0, "key manager", "0 key managers"),
        (1, "key manager", "1 key manager"),
        (2, "copy", "2 copies"),
        (1000, "day", "1,000 days"),
    ],
)
def test_plural_fits_the_count(count: int, noun: str, words: str) -> None:
    assert plural(count, noun) == words
