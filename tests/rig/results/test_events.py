"""Steps as events: time, duration, outcome, and an error that goes on."""

from __future__ import annotations

import time

import pytest

from hsm.errors import TaperigError
from rig.results.events import Event, EventLog
from rig.results.traceability import load_rules
from rig.ve.tape.sequences import STEPS


def test_a_step_is_timed_and_told() -> None:
    log = EventLog()
    heard: list[Event] = []
    log.listeners.append(heard.append)
    before = time.time()
    with log.step("BOT-1", "mount", "TAP001") as detail:
        detail["blocks"] = 3
        time.sleep(0.01)
    assert heard == log.events
    (event,) = heard
    assert (event.step, event.text, event.volume) == ("BOT-1", "mount", "TAP001")
    assert event.outcome == "ok"
    assert event.detail == {"blocks": 3}
    assert before <= event.started <= time.time()
    assert 0.01 <= event.duration_s < 10


@pytest.mark.parametrize("error", [TaperigError("why"), KeyboardInterrupt()])
def test_a_failing_step_is_recorded_and_its_error_goes_on(error: BaseException) -> None:
    log = EventLog()
    with pytest.raises(type(error)), log.step("BOT-1", "mount"):
        raise error
    assert log.events[0].outcome == "failed"


def test_steps_have_the_ids_of_the_rules() -> None:
    known = {rule.id for rule in load_rules()}
    assert set(STEPS) <= known
    sequences = {rule for rule in known if rule.split("-")[0] in ("BOT", "APP", "READ")}
    assert sequences - set(STEPS) == {"BOT-5"}  # a rule, not a step
