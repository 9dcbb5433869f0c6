"""What the rates scenario says of an engine that is too narrow."""

import pytest

from rig.engine.driver import Promise
from rig.results.measurement import EngineClock
from rig.scenarios.rates import rate_not_reached


@pytest.mark.rule("RATE-2")
def test_rates_say_that_a_narrow_engine_does_not_reach_the_drive() -> None:
    assert rate_not_reached(Promise(1, 16), EngineClock(62.5e6), 104e6) == (
        "RATE-2 is not reached: the engine's data path of 1 byte a clock passes at most 62.5 MB/s "
        "at 62.5 MHz (assumed clock), and the fastest drive writes 104 MB/s; take a wider "
        "engine or a slower drive."
    )
    assert "4 bytes a clock" in rate_not_reached(Promise(4, 4), EngineClock(62.5e6), 400e6)
    assert rate_not_reached(Promise(1, 16), EngineClock(104e6), 104e6) == ""
    assert rate_not_reached(Promise(4, 4), EngineClock(62.5e6), 250e6) == ""
