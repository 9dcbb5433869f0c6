"""The source's stories, told on the real drive, gates and key manager."""

from __future__ import annotations

from pathlib import Path

import pytest

from rig.lab.load import load_lab
from rig.report.console import ConsoleReport
from rig.results.events import EventLog
from rig.results.results import ScenarioResult
from rig.scenarios import lifecycle
from rig.scenarios.base import Scenario
from rig.scenarios.migration import Migration
from rig.scenarios.pool_over_time import PoolOverTime
from rig.testbed.session import Station
from tests.support.rig_command import lab_file
from tests.support.tape_site import Site


@pytest.fixture
def station(site: Site, tmp_path: Path) -> Station:
    """The site as a station, under a lab file that names its keys."""
    lab = load_lab(
        lab_file(
            tmp_path,
            ("  - label: June 2007 Key\n", "  - label: KEK 1\n"),
            ("  - label: June 2007 DR Site Key\n", "  - label: KEK 2\n"),
        )
    )
    return Station(
        lab=lab,
        drive_unit=lab.drives[0],
        provisioned=site.lab,
        engine=site.engine,
        element=site.element,
        drive=site.drive(),
        proxy=site.proxy,
        events=EventLog(),
        cartridges=tmp_path,
        traffic=None,
    )


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little data, as many steps."""
    monkeypatch.setattr(lifecycle, "VOLUME_BYTES", 2000)


def told(scenario: Scenario, station: Station, folder: Path) -> ScenarioResult:
    source = folder / "file"
    source.write_bytes(b"".join(bytes([number]) * 1999 + b"!" for number in range(40)))
    result = scenario.execute(station, [source], ConsoleReport())
    assert result.error is None
    assert [check.name for check in result.checks if not check.passed] == []
    return result


@pytest.mark.rule("POOL-2", "POOL-3", "BOT-5")
def test_a_pool_over_time_none_then_kek_1_then_kek_2(
    station: Station, tmp_path: Path, small: None, capsys: pytest.CaptureFixture[str]
) -> None:
    result = told(PoolOverTime(), station, tmp_path)
    assert len(result.checks) == 7
    said = capsys.readouterr().out
    assert "KEK 1" in said
    assert "KEK 2" in said


@pytest.mark.rule("MIG-1", "MIG-2", "MIG-3", "MIG-4", "MIG-7", "MIG-10", "MIG-12")
def test_a_site_moves_to_encryption_by_each_of_the_three_methods(
    station: Station, tmp_path: Path, small: None
) -> None:
    result = told(Migration(), station, tmp_path)
    assert len(result.checks) == 3 * 4 + 1
