"""``rig soak`` end to end: every byte, gaps, kills, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from hdl.registers.engine_map import RECORD_OUT
from rig.board.sim import SimBoard
from rig.lab.load import load_lab
from rig.results.results import SCHEMA_PATH
from rig.scenarios.runner import RunOptions, run_lab
from rig.scenarios.soak_options import SoakOptions, SoakPlan, lab_sha256
from rig.testbed import boards
from tests.support.rig_command import RIG, lab_file, rig
from tests.support.slow_gates import SLOW, slow_simulation
from tests.support.waiting import wait_until

SCHEMA = json.loads(SCHEMA_PATH.read_text())
SEED = ("--seed", "7")
TWO_PARTS = ("--engine-seconds", "0.03")
FIVE_PARTS = ("--engine-seconds", "0.07")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lab_file(tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def provisioned(tmp_path_factory: pytest.TempPathFactory, lab: Path) -> Path:
    state = tmp_path_factory.mktemp("provisioned") / "state"
    assert rig("hsm", "init", "--lab", lab, TAPERIG_STATE=str(state)).code == 0
    return state


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, provisioned: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    state = tmp_path / "state"
    shutil.copytree(provisioned, state)
    conf = state / "softhsm2.conf"
    conf.write_text(conf.read_text().replace(str(provisioned), str(state)))
    monkeypatch.setenv("TAPERIG_STATE", str(state))
    return state


def results(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    jsonschema.validate(found, SCHEMA)
    return found


def lines(out: Path) -> list[dict[str, Any]]:
    """Return the parts in a journal, without their seconds."""
    found = [json.loads(line) for line in (out / "soak.jsonl").read_text().splitlines()[1:]]
    for line in found:
        line.pop("seconds", None)
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, lab: Path, provisioned: Path) -> Path:
    """Return the folder of a soak of five parts that was not interrupted."""
    out = tmp_path_factory.mktemp("whole") / "out"
    ended = rig(
        *("soak", "--lab", lab, *SEED, *FIVE_PARTS, "--out", out), TAPERIG_STATE=str(provisioned)
    )
    assert (ended.code, ended.err) == (0, "")
    return out


@pytest.mark.rule("RATE-3", "RATE-5")
def test_soak_compares_mixed_records_and_judges_gaps_and_rates(whole: Path) -> None:
    (soak,) = results(whole)["scenarios"]
    assert soak["verdict"] == "pass"
    (check,) = soak["checks"]
    assert check["name"] == "every byte is what `cryptography` computes"
    judged = {item["name"]: item for item in soak["measurements"]}
    clock = judged.pop("clock")
    assert (clock["rules"], clock["verdict"]) == (["RATE-6"], "not judged")
    assert list(judged) == ["slowest part over the promise", "longest gap", "longest latency"]
    assert all(item["verdict"] == "pass" for item in judged.values())
    parts = lines(whole)
    assert [part["part"] for part in parts] == [1, 2, 3, 4, 5]
    assert all(part["keys"] > 1 and part["records"] > 500 for part in parts)
    cycles = sum(part["all_cycles"] for part in parts)
    assert judged["longest gap"]["detail"]["cycles"] == cycles >= 0.07 * 62.5e6


def test_soak_ended_is_judged_again_by_resume(whole: Path, lab: Path, provisioned: Path) -> None:
    before = (whole / "soak.jsonl").read_bytes()
    ended = rig(
        *("soak", "--lab", lab, *SEED, *FIVE_PARTS, "--resume", whole),
        TAPERIG_STATE=str(provisioned),
    )
    assert (ended.code, ended.err) == (0, "")
    assert "soaked   5 parts" in ended.out
    assert (whole / "soak.jsonl").read_bytes() == before


def started(lab: Path, out: Path) -> subprocess.Popen[str]:
    """Start a soak of five parts, and wait until one was kept."""
    process = subprocess.Popen(
        [RIG, "soak", "--lab", lab, *SEED, *FIVE_PARTS, "--out", out],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    journal = out / "soak.jsonl"
    wait_until(lambda: journal.exists() and journal.read_bytes().count(b"\n") > 1, seconds=120)
    return process


def test_soak_goes_on_after_a_kill(tmp_path: Path, lab: Path, whole: Path) -> None:
    out = tmp_path / "out"
    process = started(lab, out)
    process.kill()
    process.communicate()
    kept = len(lines(out))
    assert 1 <= kept < 5
    sentence = rig("soak", "--lab", lab, *SEED, *FIVE_PARTS, "--out", out).sentence()
    assert sentence.startswith(f"The folder {out} holds a soak already")
    assert f"`rig soak --resume {out}`" in sentence
    assert len(lines(out)) == kept
    with (out / "soak.jsonl").open("ab") as journal:  # as a kill in the middle of a line leaves it
        journal.write(b'{"part": 2, "sec')
    ended = rig("soak", "--resume", out)
    assert (ended.code, ended.err) == (0, "")
    assert f"resumed  after {kept} part" in ended.out
    assert lines(out) == lines(whole)
    for found, expected in zip(
        *(results(each)["scenarios"][0]["measurements"] for each in (out, whole)), strict=True
    ):
        assert (found["value"], found["detail"]) == (expected["value"], expected["detail"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.usefixtures("interruptible")
def test_soak_interrupted_keeps_its_parts_and_says_where(
    tmp_path: Path, lab: Path, number: signal.Signals
) -> None:
    out = tmp_path / "out"
    process = started(lab, out)
    process.send_signal(number)
    written, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (128 + number, "rig: interrupted\n")
    assert f"kept     {out}/soak.jsonl; to go on: rig soak --resume {out}" in written
    found = results(out)
    assert found["verdict"] == "interrupted"
    parts = lines(out)
    gap = found["scenarios"][0]["measurements"][1]
    assert gap["detail"]["cycles"] == sum(part["all_cycles"] for part in parts) > 0


def soak_in_process(lab: Path, state: Path, out: Path) -> dict[str, Any]:
    """Run a soak of two parts in this process; return its result."""
    chosen = load_lab(lab)
    plan = SoakPlan(
        lab_file=str(lab),
        lab_sha256=lab_sha256(chosen),
        board="sim",
        seed=7,
        hours=None,
        engine_seconds=0.03,
    )
    run_lab(chosen, state, RunOptions(out=out, soak=SoakOptions(plan)))
    (found,) = results(out)["scenarios"]
    return dict(found)


@pytest.mark.rule("RATE-3", "RATE-5")
def test_soak_fails_gates_that_stand_still_at_times(
    tmp_path: Path, own_state: Path, lab: Path, slow_rtl: Path
) -> None:
    with slow_simulation(slow_rtl, SLOW["in_a_gap_of_200000_of_4000000_clocks"]):
        found = soak_in_process(lab, own_state, tmp_path / "out")
    assert found["verdict"] == "fail"
    failed = {item["name"]: item for item in found["measurements"] if item["verdict"] == "fail"}
    assert failed["longest gap"]["value"] >= 190_000
    assert failed["longest gap"]["maximum"] == 32
    assert failed["longest gap"]["detail"]["part"] == 1
    assert failed["slowest part over the promise"]["value"] < 0.9


@pytest.mark.rule("RATE-3")
def test_soak_fails_gates_that_do_not_count_their_slow_clocks(
    tmp_path: Path, own_state: Path, lab: Path, slow_rtl: Path
) -> None:
    with slow_simulation(slow_rtl, SLOW["encrypt_8_times_slower_and_not_counted"]):
        found = soak_in_process(lab, own_state, tmp_path / "out")
    assert found["verdict"] == "fail"
    (check,) = found["checks"]
    assert "busy clocks where" in check["detail"]


class ResultsBoard(SimBoard):
    """A board whose results a test may change; each has a header and a body."""

    _is_body = False
    _length = 0

    def read(self, address: int, size: int, count: int) -> bytes:
        """See Board.read."""
        words = super().read(address, size, count)
        if address != RECORD_OUT:
            return words
        if not self._is_body:
            self._length = int.from_bytes(words[:4], "big") & 0x7FFFF
        changes = self._length > 1000 and self._length % 1009 == 0
        is_body, self._is_body = self._is_body, not self._is_body
        return self.changed(words, is_body=is_body) if changes else words

    def changed(self, words: bytes, *, is_body: bool) -> bytes:
        """Return words of a result that is wrong."""
        raise NotImplementedError


class WrongBoard(ResultsBoard):
    """A board that changes a byte of each result of a length of its own."""

    def changed(self, words: bytes, *, is_body: bool) -> bytes:
        """See ResultsBoard."""
        return words[:5] + bytes([words[5] ^ 1]) + words[6:] if is_body else words


class WrongHeaderBoard(ResultsBoard):
    """A board that says another length in the header of such a result."""

    def changed(self, words: bytes, *, is_body: bool) -> bytes:
        """See ResultsBoard."""
        return words if is_body else words[:3] + bytes([words[3] ^ 1]) + words[4:]


@pytest.fixture
def wrong_board(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boards, "SimBoard", WrongBoard)


@pytest.mark.usefixtures("wrong_board")
def test_soak_ends_at_the_first_wrong_byte_and_says_how_to_repeat_it(
    tmp_path: Path, own_state: Path, lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = soak_in_process(lab, own_state, tmp_path / "out")
    assert found["verdict"] == "fail"
    (check,) = found["checks"]
    match = re.fullmatch(
        r"The result of record ([\d,]+) of part (\d+) \((\w+), [\d,]+ bytes, AAD of \d+, under key "
        r"\d+ of the part\) is wrong from byte 5 on\. To repeat it: (.+)",
        check["detail"],
    )
    assert match, check["detail"]
    wrong = lines(tmp_path / "out")[-1]
    assert (wrong["part"], wrong["wrong"] in check["detail"]) == (int(match[2]), True)
    assert match[4] == f"rig soak --part {match[2]} --seed 7 --board sim --lab {lab}"
    assert match[0] in capsys.readouterr().out
    # The part alone has the same record.
    chosen = load_lab(lab)
    plan = SoakPlan(
        lab_file=str(lab),
        lab_sha256="",
        board="sim",
        seed=7,
        hours=None,
        engine_seconds=None,
    )
    options = SoakOptions(plan, part=int(match[2]))
    run_lab(chosen, own_state, RunOptions(out=tmp_path / "again", soak=options))
    (again,) = results(tmp_path / "again")["scenarios"]
    assert again["checks"] == found["checks"]


def test_soak_ends_at_a_wrong_header_of_a_result(
    tmp_path: Path, own_state: Path, lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boards, "SimBoard", WrongHeaderBoard)
    found = soak_in_process(lab, own_state, tmp_path / "out")
    assert (found["verdict"], found["error"]) == ("fail", None)
    (check,) = found["checks"]
    assert re.match(
        r"After the result of record [\d,]+ of part \d+, under key \d+ of the part: The engine "
        r"returned \d+ bytes for a record of \d+ bytes",
        check["detail"],
    )
    assert lines(tmp_path / "out")[-1]["wrong"] in check["detail"]
    assert (
        f"To repeat it: rig soak --part {lines(tmp_path / 'out')[-1]['part']} --seed 7"
        in (check["detail"])
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "Say how long to soak"),
        (("--hours", "1", "--engine-seconds", "1"), "Say how long to soak"),
        (("--hours", "0"), "--hours 0 is no length"),
        (("--hours", "-1"), "--hours -1 is no length"),
        (("--hours", "nan"), "--hours nan is no length"),
        (("--hours", "inf"), "--hours inf is no length"),
        (("--hours", "1e9"), "--hours 1e+09 is no length"),
        (("--hours", "9" * 5000), "--hours inf is no length"),
        (("--engine-seconds", "0"), "--engine-seconds 0 is no length"),
        (("--engine-seconds", "nan"), "--engine-seconds nan is no length"),
        (("--engine-seconds", "1e9"), "--engine-seconds 1e+09 is no length"),
        (("--hours", "1", "--seed", "-1"), "--seed is a number from 0"),
        (("--hours", "1", "--seed", str(1 << 63)), "--seed is a number from 0"),
        (("--part", "3"), "--part goes with --seed"),
        (("--part", "0", "--seed", "7"), "--part is a number from 1"),
        (("--hours", "1", "--board", "nothing"), "There is no board 'nothing'"),
        (("--resume", "/nowhere", "--out", "/tmp/x"), "--resume goes without --out"),
        (("--resume", "/nowhere"), "/nowhere holds no soak"),
    ],
)
def test_soak_refuses_in_a_sentence(options: tuple[str, ...], words: str, tmp_path: Path) -> None:
    ended = rig("soak", *options)
    assert ended.sentence().startswith(words)


def test_soak_refuses_to_go_on_with_another_one(tmp_path: Path, lab: Path, whole: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    journal = out / "soak.jsonl"
    content = journal.read_bytes()

    def refused(*options: str | Path) -> str:
        return rig("soak", "--resume", out, *options).sentence()

    assert "began with --seed 7, not 8; leave --seed out" in refused("--seed", "8")
    assert "began with --engine-seconds 0.07, not 1.0" in refused("--engine-seconds", "1")
    assert "began without --hours, not 1.0" in refused("--hours", "1")
    assert "began with --board sim, not virtual" in refused("--board", "virtual")
    other = lab_file(tmp_path, ("clock_mhz: 62.5 ", "clock_mhz: 60 "))
    assert "began with another content of the lab file" in refused("--lab", other)
    header = json.loads(content.splitlines()[0])
    header["build_hash"] ^= 1
    changed = b"\n".join([json.dumps(header).encode(), *content.splitlines()[1:]])
    journal.write_bytes(changed)
    assert f"began on gates of build {header['build_hash']:#010x}" in refused()
    assert journal.read_bytes() == changed


def test_soak_keeps_no_key_in_its_journal_and_results(whole: Path) -> None:
    from rig.engine.soak import key_of

    for path in whole.iterdir():
        content = path.read_bytes().lower()
        for part in range(1, 6):
            key = key_of(7, part, 1)
            assert key not in content
            assert key.hex().encode() not in content
    assert {path.name for path in whole.iterdir()} >= {"soak.jsonl", "results.json", "junit.xml"}
    assert (whole / "soak.jsonl").stat().st_mode & 0o077 == 0
