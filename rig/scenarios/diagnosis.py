"""Tell whether a run failed in the gates, where a waveform helps."""

from __future__ import annotations

from collections.abc import Iterator

from hdl.errors import HdlError
from rig.board.protocol import BoardError
from rig.engine.driver import EngineError
from rig.engine.throughput import MeasureError
from rig.results.measurement import Measurement
from rig.results.results import Check, RunResult, ScenarioResult

_OF_THE_GATES = (BoardError, EngineError, MeasureError)
_RULES = frozenset(
    ("BOT-2e", "BOT-3b", "APP-2f", "APP-3b", "READ-2e", "READ-3", "BOT-4", "APP-4", "READ-4")
)
"""What the gates do to data and keys; besides these, all rules of the group RATE."""


def gates_at_fault(run: RunResult, error: BaseException | None) -> bool:
    """Whether the gates are at fault for what failed in a run.

    ``error`` ended the run, if anything did.
    """
    return _is_of_the_gates(error) or any(map(_suspected, run.scenarios))


def _suspected(result: ScenarioResult) -> bool:
    if _is_of_the_gates(result.failure):
        return True
    judged: list[Check | Measurement] = [*result.checks, *result.measurements]
    failed = [item.rules for item in judged if not item.passed]
    return any(rules and all(map(_is_gate_rule, rules)) for rules in failed)


def _is_gate_rule(rule: str) -> bool:
    return rule in _RULES or rule.startswith("RATE-")


def _is_of_the_gates(error: BaseException | None) -> bool:
    """Whether the engine or its board failed, once it was built."""
    chain = list(_chain(error))
    if any(isinstance(each, HdlError) for each in chain):
        return False
    return any(isinstance(each, _OF_THE_GATES) for each in chain)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
