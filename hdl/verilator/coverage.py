"""Measure the coverage of hdl/rtl by the benches: `make coverage`.

Also `python -m hdl.verilator.coverage [pytest args]`.

Runs the benches of tests/hdl in builds that count lines, branches and toggles, sums the counts over
all benches and all instances of a module, and writes to build/coverage:

    index.html, summary.json   everything
    lcov.info, cobertura.xml   lines and branches, for other tools (geninfo(1), Cobertura)

Points that cannot be covered are listed in coverage_exclusions.toml with their reasons; `--again`
instead of pytest's arguments applies that file to the counts of the last run. A run of all benches
has to reach TARGETS.
"""

import html
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lcov_cobertura import LcovCobertura

from hdl.sources import HDL_DIRECTORY, RTL_DIRECTORY
from hdl.verilator.bench import COVERAGE_VARIABLE

EXCLUSIONS = HDL_DIRECTORY / "coverage_exclusions.toml"
OUTPUT = HDL_DIRECTORY.parent / "build" / "coverage"
BENCHES = HDL_DIRECTORY.parent / "tests" / "hdl"

# The builds record paths relative to the folder that contains hdl.
COVERED = RTL_DIRECTORY.relative_to(HDL_DIRECTORY.parent)

TARGETS = {"line": 99.0, "branch": 98.0, "toggle": 95.0}
"""Minimum coverage of each kind of point in percent, for a run of all benches."""

# A line of coverage.dat: fields as \x01 name \x02 value, then the count.
_LINE = re.compile(r"^C '(.*)' (\d+)$")
_FIELD = re.compile(r"\x01([^\x02]*)\x02([^\x01]*)")


@dataclass(frozen=True, order=True)
class Point:
    """A coverage point: a block of lines, a branch, or an edge of one bit."""

    file: str
    line: int
    column: int
    kind: str
    what: str


@dataclass(frozen=True)
class Exclusion:
    """Points that no bench can reach, and why.

    `file`, `kind` and `what` are patterns that must match completely.
    """

    file: str
    kind: str
    what: str
    reason: str

    def covers(self, point: Point) -> bool:
        """Return whether the exclusion applies to a point."""
        return (
            re.fullmatch(self.file, point.file) is not None
            and re.fullmatch(self.kind, point.kind) is not None
            and re.fullmatch(self.what, point.what) is not None
        )


def read_counts(text: str, root: Path = COVERED) -> Counter[Point]:
    """Return the count of each point under `root`, over all instances."""
    counts: Counter[Point] = Counter()
    for line in text.splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        fields = dict(_FIELD.findall(match[1]))
        file = Path(fields["f"])
        if not file.is_relative_to(root):
            continue
        counts[
            Point(
                file=str(file.relative_to(root)),
                line=int(fields["l"]),
                column=int(fields["n"]),
                kind=fields.get("t", fields["page"].removeprefix("v_").partition("/")[0]),
                what=fields.get("o", ""),
            )
        ] += int(match[2])
    return counts


def read_exclusions(path: Path = EXCLUSIONS) -> list[Exclusion]:
    """Return the exclusions of a file."""
    if not path.is_file():
        return []
    return [Exclusion(**entry) for entry in tomllib.loads(path.read_text()).get("exclusion", [])]


def summarize(
    counts: Mapping[Point, int], exclusions: Iterable[Exclusion]
) -> tuple[dict[str, dict[str, float]], dict[Point, int], list[Exclusion]]:
    """Return the summary by kind, the points that count, unused exclusions."""
    exclusions = list(exclusions)
    used = {e for e in exclusions if any(e.covers(point) for point in counts)}
    kept = {p: n for p, n in counts.items() if not any(e.covers(p) for e in exclusions)}
    summary: dict[str, dict[str, float]] = {}
    for kind in sorted({point.kind for point in kept}):
        hits = [count > 0 for point, count in kept.items() if point.kind == kind]
        percent = round(100 * sum(hits) / len(hits), 2)
        summary[kind] = {"covered": sum(hits), "points": len(hits), "percent": percent}
    return summary, kept, [e for e in exclusions if e not in used]


def write_html(summary: Mapping[str, Mapping[str, float]], kept: Mapping[Point, int]) -> str:
    """Return an HTML page: the summary, and every file with uncovered lines."""
    rows = "".join(
        f"<tr><td>{kind}</td><td>{s['covered']:.0f} of {s['points']:.0f}</td>"
        f"<td>{s['percent']:.2f} %</td></tr>"
        for kind, s in summary.items()
    )
    by_file: dict[str, dict[int, list[Point]]] = defaultdict(lambda: defaultdict(list))
    for point in sorted(kept):
        by_file[point.file]
        if kept[point] == 0:
            by_file[point.file][point.line].append(point)
    parts = []
    for file, lines in by_file.items():
        shown = []
        for number, text in enumerate((RTL_DIRECTORY / file).read_text().splitlines(), 1):
            missed = lines.get(number, [])
            words = "; ".join(f"{point.kind} {point.what}".strip() for point in missed)
            line = f"{number:5} {html.escape(text)}"
            shown.append(f'<b title="{html.escape(words)}">{line}</b>' if missed else line)
        missing = sum(map(len, lines.values()))
        parts.append(
            f"<details><summary>{file}: {missing} not covered</summary><pre>"
            + "\n".join(shown)
            + "</pre></details>"
        )
    return (
        "<!doctype html><meta charset=utf-8><title>Coverage of hdl/rtl</title>"
        "<style>b{background:#fcc;font-weight:normal}</style><h1>Coverage of hdl/rtl</h1>"
        f"<table>{rows}</table>{''.join(parts)}\n"
    )


def write_lcov(kept: Mapping[Point, int]) -> str:
    """Return the counts of lines and branches as geninfo(1) has them."""
    by_file: dict[str, list[Point]] = defaultdict(list)
    for point in sorted(kept):
        by_file[point.file].append(point)
    records = []
    for file, points in by_file.items():
        branches = [point for point in points if point.kind == "branch"]
        lines = Counter[int]()  # a line with branches ran as often as all of them
        for point in branches:
            lines[point.line] += kept[point]
        for point in points:
            if point.kind == "line":
                lines[point.line] = max(lines[point.line], kept[point])
        taken = sum(kept[point] > 0 for point in branches)
        records += [
            f"SF:{COVERED / file}",
            *(f"BRDA:{p.line},{p.column},{n},{kept[p]}" for n, p in enumerate(branches)),
            *(f"BRF:{len(branches)}", f"BRH:{taken}"),
            *(f"DA:{line},{count}" for line, count in sorted(lines.items())),
            *(f"LF:{len(lines)}", f"LH:{sum(count > 0 for count in lines.values())}"),
            "end_of_record",
        ]
    return "\n".join(records) + "\n"


def shortfalls(summary: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return the kinds of points whose coverage is below its minimum."""
    return [kind for kind, least in TARGETS.items() if summary[kind]["percent"] < least]


def bench_tests() -> list[str]:
    """Return the test files that simulate modules of hdl/rtl."""
    return [
        str(file)
        for file in sorted(BENCHES.rglob("test_*.py"))
        if file.name != "test_build.py"  # it simulates modules of its own
        and "run_bench(" in (text := file.read_text())
        and re.search(r"\brtl\(|rtl_sources\(|\bSOURCES\b", text)
    ]


def run_benches(folder: Path, arguments: list[str]) -> int:
    """Run the benches with coverage; return pytest's exit code.

    Every bench writes a coverage.dat to `folder`.
    """
    # Builds with coverage are slow, so no test has a time limit.
    options = ["--timeout=0", *(arguments or [*bench_tests(), "-n", "2"])]
    command = [sys.executable, "-m", "pytest", *options]
    return subprocess.run(
        command, env={**os.environ, COVERAGE_VARIABLE: str(folder)}, check=False
    ).returncode


def main() -> int:
    """Run the benches and write the report; return 1 on a failure."""
    data = OUTPUT / "data"
    failed = False
    if sys.argv[1:] != ["--again"]:
        shutil.rmtree(data, ignore_errors=True)
        data.mkdir(parents=True)
        failed = run_benches(data, sys.argv[1:]) != 0
    counts: Counter[Point] = Counter()
    for file in sorted(data.glob("*.dat")):
        # Not `update`: points with a count of zero must stay.
        for point, count in read_counts(file.read_text()).items():
            counts[point] = counts[point] + count
    if not counts:
        print("No bench wrote coverage; see the output of pytest above.", file=sys.stderr)
        return 1
    summary, kept, unused = summarize(counts, read_exclusions())
    (OUTPUT / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    (OUTPUT / "index.html").write_text(write_html(summary, kept))
    (OUTPUT / "lcov.info").write_text(lcov := write_lcov(kept))
    (OUTPUT / "cobertura.xml").write_text(LcovCobertura(lcov).convert())
    for exclusion in unused:
        print(f"exclusion that excludes nothing: {exclusion.file} {exclusion.what}")
    is_whole = sys.argv[1:] in ([], ["--again"])
    for kind, figures in summary.items():
        minimum = f", minimum {TARGETS[kind]:g} %" if is_whole and kind in TARGETS else ""
        print(
            f"{kind:7} {figures['percent']:6.2f} % "
            f"({figures['covered']:.0f} of {figures['points']:.0f}{minimum})"
        )
    print(f"written to {OUTPUT / 'index.html'}")
    if is_whole and (missed := shortfalls(summary)):
        print(f"error: coverage is below its minimum: {', '.join(missed)}", file=sys.stderr)
        failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
