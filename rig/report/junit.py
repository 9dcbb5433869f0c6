"""junit.xml: scenarios are test suites; what they judge are test cases.

The last suite is ``run``: the run as a whole, with its provenance as properties. Names are the same
from run to run. What was not judged, and a scenario that was not begun, are skipped with the
reason. The order of elements is that of both schemas of Jenkins' xUnit plugin, of which the older
one gives ``skipped`` no attribute.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from rig.report.text import measured
from rig.results.events import Event
from rig.results.results import RunResult, ScenarioResult, write_whole

_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_junit(run: RunResult, folder: Path) -> Path:
    """Write junit.xml into a folder, whole or not at all; return its path."""
    root = ElementTree.Element("testsuites", name=_clean(f"taperig {run.lab}"))
    for scenario in run.all_scenarios():
        root.append(_scenario(run, scenario))
    root.append(_run(run))
    text = ElementTree.tostring(root, encoding="unicode")
    return write_whole(folder / "junit.xml", f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n')


def _run(run: RunResult) -> ElementTree.Element:
    suite = _suite(run, "run", run.started, run.duration_s)
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in _properties(run):
        ElementTree.SubElement(properties, "property", name=_clean(name), value=_clean(value))
    case = _case(suite, "run", "taperig", run.duration_s)
    if run.error is not None:
        _add(case, "error", run.error)
    elif not run.all_scenarios():
        _add(case, "failure", "no scenario was run")
    return _counted(suite)


def _properties(run: RunResult) -> Iterator[tuple[str, str]]:
    yield "verdict", run.verdict
    yield "lab", run.lab
    yield "board", run.board
    yield "clock_hz", f"{run.clock.hz:g}"
    yield "clock", "assumed" if run.clock.assumed else "measured"
    yield from ((f"drive.{name}", str(value)) for name, value in run.drive.items())
    yield from run.provenance.properties()


def _scenario(run: RunResult, scenario: ScenarioResult) -> ElementTree.Element:
    suite = _suite(run, scenario.name, scenario.started, scenario.duration_s)
    name = f"taperig.{scenario.name}"
    times: Counter[str] = Counter()
    for step in scenario.steps:
        times[step.step] += 1
        _step(suite, name, step, times[step.step])
    for check in scenario.checks:
        case = _case(suite, check.name, name)
        if not check.passed:
            _add(case, "failure", check.detail or check.name)
    for item in scenario.measurements:
        case = _case(suite, item.name, name)
        if item.not_judged is not None:
            _add_text(case, "skipped", item.not_judged)
        elif not item.passed:
            _add(case, "failure", measured(item))
        _add_text(case, "system-out", measured(item))
    whole = _case(suite, scenario.name, name, scenario.duration_s)
    if scenario.interrupted or scenario.error is not None:
        _add(whole, "error", scenario.error or "interrupted")
    elif scenario.skipped is not None:
        _add_text(whole, "skipped", scenario.skipped)
    elif scenario.judged_nothing:
        _add(whole, "failure", "it judged nothing")
    return _counted(suite)


def _step(suite: ElementTree.Element, classname: str, step: Event, number: int) -> None:
    """Add a step; its name is the same in every run, so it says no volume."""
    name = f"{step.step}, {number}: {step.text}"
    case = _case(suite, name, f"{classname}.steps", step.duration_s)
    if step.outcome == "failed":
        _add(case, "failure", str(step.detail.get("error", step.text)))
    elif step.outcome == "interrupted":
        _add(case, "error", "interrupted")
    elif step.outcome == "skipped":
        _add_text(case, "skipped", "")
    if step.volume:
        _add_text(case, "system-out", f"volume {step.volume}")


def _suite(
    run: RunResult, name: str, started: float | None, duration_s: float
) -> ElementTree.Element:
    suite = ElementTree.Element("testsuite", name=name, time=f"{duration_s:.3f}")
    if started is not None:
        suite.set("timestamp", time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(started)))
    if run.provenance.software is not None:
        suite.set("hostname", _clean(run.provenance.software.host))
    return suite


def _counted(suite: ElementTree.Element) -> ElementTree.Element:
    """Set the numbers of cases of a complete suite."""
    for attribute, path in (
        ("tests", "testcase"),
        ("failures", "testcase/failure"),
        ("errors", "testcase/error"),
        ("skipped", "testcase/skipped"),
    ):
        suite.set(attribute, str(len(suite.findall(path))))
    return suite


def _case(
    suite: ElementTree.Element, name: str, classname: str, duration_s: float | None = None
) -> ElementTree.Element:
    case = ElementTree.SubElement(suite, "testcase", name=_clean(name), classname=classname)
    if duration_s is not None:
        case.set("time", f"{duration_s:.6f}")
    return case


def _add(case: ElementTree.Element, kind: str, message: str) -> None:
    ElementTree.SubElement(case, kind, message=_clean(message)).text = _clean(message)


def _add_text(case: ElementTree.Element, kind: str, text: str) -> None:
    ElementTree.SubElement(case, kind).text = _clean(text)


def _clean(text: str) -> str:
    """Replace the characters that XML 1.0 cannot carry."""
    return _FORBIDDEN.sub("\ufffd", text)
