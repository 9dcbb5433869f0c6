"""Steps as events: their time, duration, outcome and errors."""

from __future__ import annotations

import time
from contextlib import nullcontext

import pytest

from hsm.errors import TaperigError
from rig.results.events import Event, EventLog, WorkInterruptedError
from rig.results.traceability import load_rules
from rig.ve.tape.sequences import STEPS


def test_step_is_timed_and_passed_to_the_listeners() -> None:
    log = EventLog()
    received: list[Event] = []
    log.listeners.append(received.append)
    before = time.time()
    with log.step("BOT-1", "mount", "TAP001") as detail:
        detail["blocks"] = 3
        time.sleep(0.01)
    assert received == log.events
    (event,) = received
    assert (event.step, event.text, event.volume) == ("BOT-1", "mount", "TAP001")
    assert event.outcome == "ok"
    assert event.detail == {"blocks": 3}
    assert before <= event.started <= time.time()
    assert 0.01 <= event.duration_s < 10


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (TaperigError("why"), "failed"),
        (KeyboardInterrupt(), "interrupted"),
        (SystemExit(143), "interrupted"),
        (WorkInterruptedError("why"), "interrupted"),
    ],
)
def test_step_that_ends_early_is_recorded_and_its_error_raised(
    error: BaseException, outcome: str
) -> None:
    log = EventLog()
    for place in (nullcontext(), log.expecting_failure()):
        with pytest.raises(type(error)), place, log.step("BOT-1", "mount"):
            raise error
    assert log.events[0].outcome == outcome
    assert log.events[1].outcome == ("expected" if outcome == "failed" else outcome)


def test_steps_have_the_ids_of_the_rules() -> None:
    known = {rule.id for rule in load_rules()}
    assert set(STEPS) <= known
    sequences = {rule for rule in known if rule.split("-")[0] in ("BOT", "APP", "READ")}
    assert sequences - set(STEPS) == {"BOT-5"}  # a rule, not a step
