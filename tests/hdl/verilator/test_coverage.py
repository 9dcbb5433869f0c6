"""Coverage: counts of all instances are summed, exclusions are applied."""

from pathlib import Path

from hdl.verilator.coverage import (
    EXCLUSIONS,
    TARGETS,
    Exclusion,
    Point,
    bench_tests,
    read_counts,
    read_exclusions,
    shortfalls,
    summarize,
    write_lcov,
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


def test_coverage_below_its_minimum_is_named() -> None:
    reached = {kind: {"percent": least} for kind, least in TARGETS.items()}
    assert set(TARGETS) == {"line", "branch", "toggle"}
    assert shortfalls(reached) == []
    assert shortfalls({**reached, "branch": {"percent": TARGETS["branch"] - 0.01}}) == ["branch"]


def test_coverage_exclusions_have_reasons() -> None:
    exclusions = read_exclusions(EXCLUSIONS)
    assert exclusions
    assert all(len(exclusion.reason) > 20 for exclusion in exclusions)


def test_coverage_runs_the_benches_of_the_rtl() -> None:
    names = [Path(file).name for file in bench_tests()]
    assert {"test_engine.py", "test_ghash.py"} <= set(names)
    assert "test_build.py" not in names


def test_write_lcov_gives_lines_and_branches_by_file() -> None:
    kept = {
        Point("a.sv", 3, 4, "line", "block"): 2,
        Point("a.sv", 5, 4, "branch", "if"): 7,
        Point("a.sv", 5, 4, "branch", "else"): 0,
        Point("a.sv", 9, 1, "toggle", "x:0->1"): 1,
        Point("b.sv", 1, 1, "line", "block"): 0,
    }
    first, second, rest = write_lcov(kept).split("end_of_record\n")
    assert first.splitlines() == [
        "SF:hdl/rtl/a.sv",
        *("BRDA:5,4,0,0", "BRDA:5,4,1,7", "BRF:2", "BRH:1"),
        *("DA:3,2", "DA:5,7", "LF:2", "LH:2"),
    ]
    assert second.splitlines() == ["SF:hdl/rtl/b.sv", "BRF:0", "BRH:0", "DA:1,0", "LF:1", "LH:0"]
    assert rest == ""
