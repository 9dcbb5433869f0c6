"""Coverage: what benches counted is added up, exclusions take out what they name and no more."""

from pathlib import Path

from hdl.verilator.coverage import (
    EXCLUSIONS,
    Exclusion,
    Point,
    read_counts,
    read_exclusions,
    summarize,
)

ROOT = Path("/rtl")


def data(*points: tuple[str, int, str, str, int]) -> str:
    """A file as Verilator writes it."""
    lines = [
        f"C '\x01f\x02{file}\x01l\x02{line}\x01n\x024\x01t\x02{kind}\x01page\x02v_{kind}/m"
        f"\x01o\x02{what}\x01h\x02top.u' {count}"
        for file, line, kind, what, count in points
    ]
    return "\n".join(["# SystemC::Coverage-3", *lines])


def test_instances_of_a_module_are_added_up_and_other_files_left_out() -> None:
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


def test_points_never_met_count_against_the_share() -> None:
    counts = {Point("a.sv", n, 1, "line", "block"): n for n in range(4)}
    summary, kept, _ = summarize(counts, [])
    assert summary == {"line": {"covered": 3, "points": 4, "percent": 75.0}}
    assert len(kept) == 4


def test_an_exclusion_takes_out_what_it_names_and_is_reported_when_useless() -> None:
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


def test_every_exclusion_has_its_reason() -> None:
    exclusions = read_exclusions(EXCLUSIONS)
    assert exclusions
    assert all(len(exclusion.reason) > 20 for exclusion in exclusions)
