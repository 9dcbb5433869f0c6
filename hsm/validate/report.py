"""The report of a validation, also as JSON (validation.schema.json)."""

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from hsm.validate.findings import Finding
from hsm.validate.verdict import Consequence, Verdict

SCHEMA_PATH: Final = Path(__file__).with_name("validation.schema.json")
VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Validation:
    """A validation: the token, the findings and the verdict."""

    module: str
    token: str
    began: datetime
    seconds: float
    findings: tuple[Finding, ...]
    verdict: Verdict
    leftovers_removed: int
    """Objects of earlier, killed validations that were found and removed."""
    left_behind: int
    """Objects of any validation that are on the token at the end."""

    def as_json(self) -> dict[str, Any]:
        """Return the validation as plain values."""
        return {
            "version": VERSION,
            "module": self.module,
            "token": self.token,
            "began": self.began.isoformat(timespec="seconds"),
            "seconds": round(self.seconds, 3),
            "verdict": {
                "fitness": self.verdict.fitness.value,
                "complete": self.verdict.complete,
                "unfit": [_consequence(each) for each in self.verdict.unfit],
                "limits": [_consequence(each) for each in self.verdict.limits],
                "accept": [limit.value for limit in self.verdict.accept],
                "secure_element": {
                    "fit": not self.verdict.secure_element,
                    "because": [_consequence(each) for each in self.verdict.secure_element],
                },
            },
            "findings": [_finding(finding) for finding in self.findings],
            "leftovers_removed": self.leftovers_removed,
            "left_behind": self.left_behind,
        }

    def to_json(self) -> str:
        """Return the validation as JSON text."""
        return json.dumps(self.as_json(), indent=2, ensure_ascii=False)


def _consequence(consequence: Consequence) -> dict[str, Any]:
    return {
        "name": consequence.name,
        "lost": consequence.lost,
        "around": consequence.around,
        "because": list(consequence.because),
    }


def _finding(finding: Finding) -> dict[str, Any]:
    answer = finding.answer
    values: dict[str, Any] = {
        "probe": finding.probe,
        "asks": finding.asks,
        "status": answer.status.value,
        "does": answer.does,
        "code": answer.code,
    }
    if answer.rate is not None:
        values["rate"] = {"value": round(answer.rate, 3), "unit": "1/s"}
    return values
