"""The engine with random initial values; `make powerup` runs more seeds."""

import pytest
from test_engine import FLAGS, HERE, NO_ASSERTIONS, SMALL_BANKS, SOURCES

from hdl.verilator.bench import run_bench
from hdl.verilator.power_up import power_up_plusargs


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_engine_starts_with_any_initial_values(seed: int) -> None:
    run_bench(
        "engine_top",
        SOURCES,
        "bench_engine_power_up",
        parameters=SMALL_BANKS,
        vlt=[HERE / "engine_flippable.vlt"],
        flags=FLAGS,
        plusargs=NO_ASSERTIONS,
        power_up_seed=seed,
        extra_env={"POWER_UP": "1"},
    )


def test_power_up_seed_of_the_environment_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TAPERIG_POWER_UP_SEED", raising=False)
    assert power_up_plusargs() == []
    monkeypatch.setenv("TAPERIG_POWER_UP_SEED", "7")
    assert power_up_plusargs() == ["+verilator+rand+reset+2", "+verilator+seed+7"]
    for wrong in ("0", "x", "-1", "9999999999"):
        monkeypatch.setenv("TAPERIG_POWER_UP_SEED", wrong)
        with pytest.raises(Exception, match="TAPERIG_POWER_UP_SEED is"):
            power_up_plusargs()
