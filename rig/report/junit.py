"""junit.xml: scenarios are test suites; what they judge are test cases."""

from __future__ import annotations

import re
import time
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

from rig.report.text import measured
from rig.results.events import Event
from rig.results.results import Check, RunResult, ScenarioResult, write_whole

_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_junit(run: RunResult, folder: Path) -> Path:
    """Write junit.xml into a folder, whole or not at all; return its path."""
    root = ElementTree.Element("testsuites", name=f"taperig {run.lab}")
    for scenario in run.scenarios:
        root.append(_suite(run, scenario))
    if run.error is not None:
        suite = ElementTree.SubElement(root, "testsuite", name="run", tests="1", errors="1")
        case = ElementTree.SubElement(suite, "testcase", name="run", classname="taperig")
        _add(case, "error", run.error)
    text = ElementTree.tostring(root, encoding="unicode")
    return write_whole(folder / "junit.xml", f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n')


def _suite(run: RunResult, scenario: ScenarioResult) -> ElementTree.Element:
    suite = ElementTree.Element(
        "testsuite",
        name=scenario.name,
        hostname=run.board,
        time=f"{scenario.duration_s:.3f}",
        timestamp=time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(scenario.started)),
    )
    name = f"taperig.{scenario.name}"
    times: Counter[str] = Counter()
    for step in scenario.steps:
        times[step.step] += 1
        _step(suite, name, step, times[step.step])
    for check in scenario.checks:
        _check(suite, name, check)
    for item in scenario.measurements:
        case = ElementTree.SubElement(suite, "testcase", name=_clean(item.name), classname=name)
        if item.not_judged is not None:
            ElementTree.SubElement(case, "skipped", message=_clean(item.not_judged))
        elif not item.passed:
            _add(case, "failure", measured(item))
        ElementTree.SubElement(case, "system-out").text = _clean(measured(item))
    error = "interrupted" if scenario.interrupted else scenario.error
    if error is not None:
        case = ElementTree.SubElement(suite, "testcase", name=scenario.name, classname=name)
        _add(case, "error", error)
    suite.set("tests", str(len(suite.findall("testcase"))))
    suite.set("failures", str(len(suite.findall("testcase/failure"))))
    suite.set("errors", str(len(suite.findall("testcase/error"))))
    suite.set("skipped", str(len(suite.findall("testcase/skipped"))))
    return suite


def _step(suite: ElementTree.Element, classname: str, step: Event, number: int) -> None:
    """Add a step; its name is the same in every run, so it says no volume."""
    case = ElementTree.SubElement(
        suite,
        "testcase",
        name=_clean(f"{step.step}, {number}: {step.text}"),
        classname=f"{classname}.steps",
        time=f"{step.duration_s:.6f}",
    )
    if step.volume:
        ElementTree.SubElement(case, "system-out").text = _clean(f"volume {step.volume}")
    if step.outcome == "failed":
        _add(case, "failure", str(step.detail.get("error", step.text)))
    elif step.outcome == "interrupted":
        _add(case, "error", "interrupted")
    elif step.outcome == "skipped":
        ElementTree.SubElement(case, "skipped")


def _check(suite: ElementTree.Element, classname: str, check: Check) -> None:
    case = ElementTree.SubElement(suite, "testcase", name=_clean(check.name), classname=classname)
    if not check.passed:
        _add(case, "failure", check.detail or check.name)


def _add(case: ElementTree.Element, kind: str, message: str) -> None:
    ElementTree.SubElement(case, kind, message=_clean(message)).text = _clean(message)


def _clean(text: str) -> str:
    """Replace the characters that XML 1.0 cannot carry."""
    return _FORBIDDEN.sub("\ufffd", text)
