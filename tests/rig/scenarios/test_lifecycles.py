"""The scenarios over time on the real drive, gates and key manager."""

from __future__ import annotations

import os
from collections.abc import Sequence
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
from rig.testbed.drives import OpenDrive
from rig.testbed.run_nodes import RunNodes
from rig.testbed.session import LabSession
from tests.support.rig_command import lab_file
from tests.support.tape_site import Site


@pytest.fixture
def session(site: Site, tmp_path: Path) -> LabSession:
    """Return the site as an open lab whose lab file names its keys."""
    lab = load_lab(
        lab_file(
            tmp_path,
            ("  - label: June 2007 Key\n", "  - label: KEK 1\n"),
            ("  - label: June 2007 DR Site Key\n", "  - label: KEK 2\n"),
            ("{label: June 2007 Key, mode: clear}", "{label: KEK 1, mode: clear}"),
            (
                "      - {label: June 2007 DR Site Key, mode: hash}",
                "      - {label: KEK 2, mode: hash}",
            ),
        )
    )
    return LabSession(
        lab=lab,
        node=lab.run_node,
        provisioned=site.lab,
        drives=(OpenDrive(lab.drives[0], site.engine, site.element, site.drive(), None),),
        proxy=site.proxy,
        events=EventLog(),
        administered=list,
    )


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use less data for the same number of steps."""
    monkeypatch.setattr(lifecycle, "VOLUME_BYTES", 2000)


MUCH = [b"".join(bytes([number]) * 1999 + b"!" for number in range(40))]


def run(
    scenario: Scenario, session: LabSession, folder: Path, contents: Sequence[bytes] = tuple(MUCH)
) -> ScenarioResult:
    files = [folder / f"file{number}" for number in range(len(contents))]
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(content)
    result = scenario.execute(session, RunNodes(folder), files, ConsoleReport(), [])
    assert result.error is None
    assert [check.name for check in result.checks if not check.passed] == []
    return result


@pytest.mark.rule("POOL-2", "POOL-3", "BOT-5")
def test_pool_over_time_is_clear_then_under_kek_1_then_under_kek_2(
    session: LabSession, tmp_path: Path, small: None, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(PoolOverTime(), session, tmp_path)
    assert len(result.checks) == 7
    output = capsys.readouterr().out
    assert "KEK 1" in output
    assert "KEK 2" in output


@pytest.mark.rule("MIG-1", "MIG-2", "MIG-3", "MIG-4", "MIG-7", "MIG-10", "MIG-12")
def test_migration_moves_all_data_by_each_of_the_three_methods(
    session: LabSession, tmp_path: Path, small: None
) -> None:
    result = run(Migration(), session, tmp_path)
    assert len(result.checks) == 3 * 4 + 1


@pytest.mark.parametrize("scenario", [PoolOverTime, Migration])
@pytest.mark.parametrize("sizes", [(3,), (100, 100, 100), (2100,) * 6, (0, 1)])
def test_scenarios_over_time_hold_for_any_data(
    session: LabSession,
    tmp_path: Path,
    small: None,
    scenario: type[Scenario],
    sizes: tuple[int, ...],
) -> None:
    run(scenario(), session, tmp_path, [os.urandom(size) for size in sizes])
