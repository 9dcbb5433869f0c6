"""The cycle counts of simulated gates equal the checked-in baseline."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

import pytest

from hdl.sources import rtl_sha256
from hdl.widths import WIDTHS
from rig.cli.main import run_command_line
from rig.engine import cycle_baseline
from rig.engine.cycle_baseline import (
    BaselineError,
    Cycles,
    _judge,
    baseline_file,
    judge_cycles,
    read_baseline,
    write_baseline,
)
from rig.engine.driver import Engine
from rig.engine.throughput import HostTraffic, Sample, Unpaced, measure_small, measure_unpaced
from rig.report.text import measured

CLEAR = next(
    line for line in baseline_file(16).read_text().splitlines() if line.startswith("65536 =")
)
"""The line of the largest clear records that the tests count."""
CLOCKS = int(CLEAR.split()[-2])

Counted = tuple[list[Unpaced], list[Sample]]


@pytest.fixture(scope="module")
def counted(engine: Engine) -> Counted:
    """What the gates count of two record sizes and of the small ones."""
    key = secrets.token_bytes(32)
    engine.load_plain_key(key)
    traffic = HostTraffic(engine, key)
    try:
        unpaced = [measure_unpaced(engine, traffic, size) for size in (2048, 65_536)]
        return unpaced, list(measure_small(engine, traffic))
    finally:
        engine.zeroize()


@pytest.fixture
def changed(tmp_path: Path) -> Callable[[str, str], Path]:
    """Write the baseline of the widest gates with a text replaced, once."""

    def change(old: str, new: str) -> Path:
        text = baseline_file(16).read_text()
        assert old in text
        (tmp_path / baseline_file(16).name).write_text(text.replace(old, new, 1))
        return tmp_path

    return change


@pytest.mark.rule("RATE-4")
def test_cycles_of_the_simulated_gates_equal_the_baseline(engine: Engine, counted: Counted) -> None:
    items = judge_cycles(engine, *counted)
    assert {item.verdict for item in items} == {"pass"}, [
        measured(item) for item in items if item.verdict != "pass"
    ]
    assert len(items) == 6 + len(counted[1])
    assert len({item.name for item in items}) == len(items)


@pytest.mark.rule("RATE-4")
def test_cycles_off_the_baseline_fail_and_say_old_and_new(
    engine: Engine, counted: Counted, changed: Callable[[str, str], Path]
) -> None:
    encrypt = "[cycles.encrypt.aad_16]\n2048 = { records = 256, clocks = "
    text = baseline_file(16).read_text()
    clocks = text[text.index(encrypt) + len(encrypt) :].split()[0]
    folder = changed(f"{encrypt}{clocks}", f"{encrypt}{int(clocks) - 1}")
    failed = [item for item in judge_cycles(engine, *counted, folder) if not item.passed]
    assert [measured(item) for item in failed] == [
        f"cycles of the baseline, encrypt, records of 2,048 bytes, AAD of 16: {int(clocks):,} "
        f"clocks (must be {int(clocks) - 1:,} clocks)"
    ]


@pytest.mark.parametrize(("word_bytes", "slack"), [(16, 0), (8, 1), (4, 3), (1, 15)])
def test_cycles_of_narrow_gates_may_differ_by_less_than_a_word(word_bytes: int, slack: int) -> None:
    baseline = read_baseline(word_bytes)
    assert baseline is not None
    for batch, known in baseline.counts.items():
        for off in (-slack - 1, -slack, slack, slack + 1):
            counted = Cycles(known.records, known.clocks + off)
            judged = _judge(batch, counted, 62.5e6, baseline, None)
            assert judged.passed is (abs(off) <= slack), (batch, off)


def test_cycles_are_not_judged_without_a_baseline(
    engine: Engine, counted: Counted, tmp_path: Path
) -> None:
    items = judge_cycles(engine, *counted, tmp_path)
    assert {item.not_judged for item in items} == {
        "no baseline for 16 bytes a clock; make it with: rig baseline update"
    }


def test_cycles_of_another_batch_than_the_baseline_has_are_not_judged(
    engine: Engine, counted: Counted, changed: Callable[[str, str], Path]
) -> None:
    folder = changed(CLEAR, "")
    without = [item for item in judge_cycles(engine, *counted, folder) if item.not_judged]
    assert [(item.name, item.not_judged) for item in without] == [
        (
            "cycles of the baseline, bypass, records of 65,536 bytes, AAD of 0",
            "the baseline has no such batch; rig baseline update",
        )
    ]


def test_cycles_of_a_board_are_not_judged(
    engine: Engine, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "simulated", False)
    items = judge_cycles(engine, *counted)
    assert {item.not_judged for item in items} == {"cycles are compared in simulation only"}


@pytest.mark.parametrize("word_bytes", WIDTHS)
def test_baseline_of_each_width_is_as_it_would_be_written(word_bytes: int, tmp_path: Path) -> None:
    baseline = read_baseline(word_bytes)
    assert baseline is not None
    written = write_baseline(word_bytes, baseline.counts, tmp_path)
    before, after = baseline_file(word_bytes).read_text(), written.read_text()
    assert [line for line in before.splitlines() if "rtl_sha256" not in line] == [
        line for line in after.splitlines() if "rtl_sha256" not in line
    ]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (CLEAR, "65536 = { records = 8, clocks = 0 }"),
        (CLEAR, "65536 = { records = 8 }"),
        (CLEAR, f"65536 = {{ records = 8, clocks = {'9' * 5000} }}"),
        ("[cycles.bypass.aad_0]", "[cycles.bypass.none]"),
        ("[cycles.bypass.aad_0]", "[cycles]\nbypass = 3\n[other]"),
        ("rtl_sha256 =", "sha256 ="),
        ("word_bytes = 16", "word_bytes ="),
    ],
)
def test_baseline_that_is_damaged_is_refused_in_one_sentence(
    changed: Callable[[str, str], Path], old: str, new: str
) -> None:
    folder = changed(old, new)
    with pytest.raises(BaselineError, match=r"^The cycle counts in .* cannot be read \(.*\); .*$"):
        read_baseline(16, folder)


def test_baseline_update_says_what_changed_and_writes_it(
    changed: Callable[[str, str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = changed(CLEAR, "65536 = { records = 8, clocks = 1 }")
    before = read_baseline(16)
    assert before is not None
    monkeypatch.setattr(cycle_baseline, "FOLDER", folder)
    assert run_command_line(["baseline", "update", "--width", "16"]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"bypass, records of 65,536 bytes, AAD of 0: 1 clocks for 8 records -> {CLOCKS:,} clocks "
        "for 8 records",
        f"{folder / 'width_16.toml'}: 1 of {len(before.counts)} counts changed",
    ]
    updated = read_baseline(16, folder)
    assert updated is not None
    assert updated.counts == before.counts
    assert updated.rtl_sha256 == rtl_sha256()
