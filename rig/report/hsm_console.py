"""A validation of a token on the console: its findings, then the verdict."""

from __future__ import annotations

from hsm.validate.findings import Finding, Status
from hsm.validate.probes import AREAS, PROBES
from hsm.validate.report import Validation
from hsm.validate.verdict import Consequence, Fitness
from rig.report.console import ConsoleReport
from rig.report.text import plural

_STYLES = {
    Status.GOOD: "green",
    Status.NOTE: "",
    Status.LACKS: "yellow",
    Status.RISK: "red",
    Status.CRASHED: "red",
    Status.HUNG: "red",
    Status.NOT_TRIED: "dim",
    Status.NOT_DETERMINED: "yellow",
}
_VERDICT_STYLES = {
    Fitness.FIT: "bold green",
    Fitness.LIMITED: "bold yellow",
    Fitness.UNFIT: "bold red",
}
_STATUS_WIDTH = max(len(status.value) for status in Status)


class ValidationReport:
    """Prints a validation while it runs and when it is done."""

    def __init__(self, *, error_stream: bool = False) -> None:
        """Write to standard output, or to standard error."""
        self._report = ConsoleReport(error_stream=error_stream)
        self._area = ""

    def finding(self, finding: Finding) -> None:
        """Print a finding, under the title of its area."""
        area = PROBES[finding.probe].area
        if area != self._area:
            self._area = area
            self._report.title(AREAS[area])
        answer = finding.answer
        rate = "" if answer.rate is None else f"{answer.rate:,.1f}/s  "
        code = f"  [{answer.code}]" if answer.code else ""
        self._report.line(
            f"{answer.status.value:<{_STATUS_WIDTH}}  {finding.asks}: {rate}{answer.does}{code}",
            _STYLES[answer.status],
        )

    def verdict(self, validation: Validation) -> None:
        """Print the verdict, what is lost and what the rig does instead."""
        report, verdict = self._report, validation.verdict
        for title, consequences in (
            ("Why it is unfit", verdict.unfit),
            ("Limits", verdict.limits),
            ("Why it cannot be a drive's secure element", verdict.secure_element),
        ):
            if consequences:
                report.title(title)
            for consequence in consequences:
                self._consequence(consequence)
        if verdict.accept and not verdict.unfit:
            report.title("To run the rig on it, its token in lab.yaml says")
            report.line(f"accept: [{', '.join(verdict.accept)}]")
        report.line()
        report.line(
            f"{plural(validation.leftovers_removed, 'object')} of earlier validations removed, "
            f"{validation.left_behind} left behind; {validation.seconds:.1f} s"
        )
        report.line(f"{validation.token}: {verdict.sentence}", _VERDICT_STYLES[verdict.fitness])

    def _consequence(self, consequence: Consequence) -> None:
        self._report.line(f"{consequence.name}: {consequence.lost}", "yellow")
        if consequence.around:
            self._report.line(f"    instead: {consequence.around}")
        self._report.line(f"    seen in: {', '.join(consequence.because)}", "dim")
