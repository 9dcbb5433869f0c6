"""A short run of the kill campaign of tests/bench/ekm_kill.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from hsm.ekm.audit import log as audit_log
from hsm.ekm.audit.log import AuditLog
from hsm.provisioning import ProvisionedLab
from tests.support.ekm_kill_campaign import (
    DriveCounts,
    Outcome,
    _compare_logs,
    _config,
    run_campaign,
)
from tests.support.ekm_lab import SoftDrive, authority


@pytest.mark.rule("EKM-6")
def test_kill_campaign_loses_no_exchange_and_answers_none_twice(
    lab: ProvisionedLab, tmp_path: Path
) -> None:
    outcome = run_campaign(lab, tmp_path, seconds=10, seed=4, pause=(0.02, 0.3))
    assert outcome.sound, outcome
    assert outcome.exchanges > 10
    assert outcome.workers_killed
    assert outcome.managers_killed
    assert outcome.connections_cut
    assert outcome.files > 2, "the logs were rotated meanwhile"


def test_kill_campaign_finds_lost_and_repeated_answers(lab: ProvisionedLab, tmp_path: Path) -> None:
    drive = SoftDrive.issued_by(authority(lab), "JUDGED0001")
    configs = [_config(lab, tmp_path / name, [drive]) for name in ("main", "second")]

    def reply(which: int, sequence: int) -> None:
        with AuditLog(configs[which].audit) as log:
            log.append("key-reply", serial=drive.serial, sequence=sequence)

    def judged(*granted: int) -> Outcome:
        outcome = Outcome()
        _compare_logs(outcome, configs, [drive], [DriveCounts(list(granted))])
        return outcome

    for which in (0, 1):
        with AuditLog(configs[which].audit):
            pass
    reply(0, 5)
    assert judged(5).lost == 1, "the drive table is behind the log"
    assert judged(5, 6).lost == 2
    reply(1, 5)
    assert judged(5).answered_twice == 1
    reply(0, 4)
    assert judged(4, 5).answered_twice == 2
    assert len(list(audit_log.records(configs[0].audit))) == 2
