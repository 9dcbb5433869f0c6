"""Coverage: counts of all instances are summed, exclusions are applied."""

from pathlib import Path

from hdl.verilator.coverage import (
    EXCLUSIONS,
    Exclusion,
    Point,
    bench_tests,
    read_counts,
    read_exclusions,
    summarize,
)

ROOT = Path("/rtl")


def data(*points: tuple[str, int, str, str, int]) -> str:
    """Return the text of a coverage file of Verilator."""
    lines = [
        f"C '\x01f\x02{file}\x01l\x02{line}\x01n\x024\x01t\x02{kind}\x01page\x02v_{kind}/m"
        f"\x01o\x02{what}\x01h\x02top.u' {count}"
        for file, line, kind, what, count in points
    ]
    return "\n".join(["# SystemC::Coverage-3", *lines])


def test_read_counts_sums_instances_and_skips_other_files() -> None:
    counts = read_counts(
        data(
            ("/rtl/a.sv", 3, "toggle", "x:0->1", 2),
            ("/rtl/a.sv", 3, "toggle", "x:0->1", 5),
            ("/rtl/a.sv", 9, "line", "block", 0),
            ("/tests/top.sv", 3, "line", "block", 1),
        ),
        ROOT,
    )
    assert counts == {
        Point("a.sv", 3, 4, "toggle", "x:0->1"): 7,
        Point("a.sv", 9, 4, "line", "block"): 0,
    }
    assert Point("a.sv", 9, 4, "line", "block") in counts


def test_summarize_counts_points_that_were_never_hit() -> None:
    counts = {Point("a.sv", n, 1, "line", "block"): n for n in range(4)}
    summary, kept, _ = summarize(counts, [])
    assert summary == {"line": {"covered": 3, "points": 4, "percent": 75.0}}
    assert len(kept) == 4


def test_summarize_applies_exclusions_and_reports_unused_ones() -> None:
    counts = {
        Point("a.sv", 1, 1, "toggle", "rst_ni:1->0"): 0,
        Point("a.sv", 1, 1, "toggle", "rst_ni_q:1->0"): 0,
    }
    good = Exclusion("a.sv", "toggle", r"rst_ni(:.*)?", "reset")
    stale = Exclusion("b.sv", "toggle", ".*", "gone")
    summary, kept, useless = summarize(counts, [good, stale])
    assert list(kept) == [Point("a.sv", 1, 1, "toggle", "rst_ni_q:1->0")]
    assert summary["toggle"]["points"] == 1
    assert useless == [stale]


def test_coverage_exclusions_have_reasons() -> None:
    exclusions = read_exclusions(EXCLUSIONS)
    assert exclusions
    assert all(len(exclusion.reason) > 20 for exclusion in exclusions)


def test_coverage_runs_the_benches_of_the_rtl() -> None:
    names = [Path(file).name for file in bench_tests()]
    assert {"test_engine.py", "test_ghash.py"} <= set(names)
    assert "test_build.py" not in names
