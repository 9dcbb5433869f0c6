"""``rig run`` end to end: simulation, token, key manager, cartridges."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from itertools import chain
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from cryptography.hazmat.primitives import hashes

from hdl.sources import rtl_sha256
from hsm.keys.pki import load_certificate
from hsm.pkcs11.softhsm import find_module
from rig.drive.cartridge import Cartridge
from rig.drive.cartridge_format import TapeFormat
from rig.lab.load import load_lab
from rig.results.results import SCHEMA_PATH
from rig.scenarios.round_trip import CLEAR_STEPS, ENCRYPTED_STEPS
from rig.scenarios.runner import RunOptions, run_lab
from tests.support.junit import read_junit
from tests.support.ports import reserve_port
from tests.support.rig_command import RIG, Ended, lab_file, rig
from tests.support.slow_gates import SLOW, slow_simulation
from tests.support.waiting import wait_until

SCHEMA = json.loads(SCHEMA_PATH.read_text())


ROUND_TRIP = ("--scenario", "round_trip")
"""Without the rates, which take the longest."""


@pytest.fixture(scope="session")
def provisioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a state folder with the default lab's tokens, never used."""
    state = tmp_path_factory.mktemp("provisioned") / "state"
    lab = lab_file(tmp_path_factory.mktemp("lab"))
    assert rig("hsm", "init", "--lab", lab, TAPERIG_STATE=str(state)).code == 0
    return state


@pytest.fixture
def own_state(tmp_path: Path, provisioned: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a provisioned state folder of this test's own."""
    state = tmp_path / "state"
    shutil.copytree(provisioned, state)
    conf = state / "softhsm2.conf"
    conf.write_text(conf.read_text().replace(str(provisioned), str(state)))
    monkeypatch.setenv("TAPERIG_STATE", str(state))
    return state


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Create a few small files, an empty one and one with an odd name."""
    folder = tmp_path / "data"
    (folder / "below").mkdir(parents=True)
    (folder / "a.txt").write_bytes(b"All that is gold does not glitter, " * 300)
    (folder / "empty").write_bytes(b"")
    (folder / "below" / "block").write_bytes(bytes(range(256)) * 1100)
    (folder / os.fsdecode(b"odd \xff \n name")).write_bytes(b"x")
    return folder


def results(out: Path) -> dict[str, Any]:
    """Return results.json, which must be valid by its schema."""
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    jsonschema.validate(found, SCHEMA)
    read_junit(out / "junit.xml")
    return found


def run(folder: Path, data: Path, *options: str | Path, lab: Path | None = None) -> Ended:
    chosen = lab if lab is not None else lab_file(folder)
    return rig("run", "--lab", chosen, "--data", data, "--out", folder / "out", *options)


def files_below(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def formats(nodes: Path) -> dict[str, TapeFormat]:
    """Return the format of each cartridge of a round trip, by VOLSER."""
    found = {}
    for path in sorted((nodes / "round_trip" / "cartridges").iterdir()):
        with Cartridge.open(path) as cartridge:
            found[cartridge.volser] = cartridge.format
    return found


def kept_nodes(out: Path) -> Path:
    """Return the folder where a run that did not pass kept its cartridges."""
    return Path(results(out)["cartridges"])


@pytest.mark.rule(
    *("BOT-1", "BOT-2a", "BOT-2b", "BOT-2c", "BOT-2d", "BOT-2e", "BOT-3a", "BOT-3b", "BOT-4"),
    *("APP-1", "APP-2a", "APP-2b", "APP-2c", "APP-2d", "APP-2e", "APP-2f", "APP-3a", "APP-3b"),
    *("APP-4", "READ-1", "READ-2a", "READ-2b", "READ-2c", "READ-2d", "READ-2e", "READ-3"),
    *("READ-4", "RATE-1", "RATE-2", "RATE-4", "RATE-6", "EKM-3", "POOL-1"),
)
def test_run_passes_and_writes_results(tmp_path: Path, own_state: Path, data: Path) -> None:
    ended = run(tmp_path, data)
    assert (ended.code, ended.err) == (0, "")
    assert "\x1b" not in ended.out
    assert "PASS" in ended.out
    assert str(tmp_path / "out" / "results.json") in ended.out
    found = results(tmp_path / "out")
    assert found["verdict"] == "pass"
    assert found["data"] == {"volumes": 4, "bytes": 292_101, "sources": [str(data)]}
    round_trip, rates = found["scenarios"]
    assert [step["step"] for step in round_trip["steps"]] == [
        *chain.from_iterable((*CLEAR_STEPS, *ENCRYPTED_STEPS))
    ]
    assert all(step["outcome"] == "ok" and step["duration_s"] >= 0 for step in round_trip["steps"])
    assert len([m for m in rates["measurements"] if m["rules"] == ["RATE-1"]]) == 16
    assert len([m for m in rates["measurements"] if m["rules"] == ["RATE-2"]]) == 16
    check_provenance(found["provenance"], own_state, tmp_path / "lab.yaml")
    cycles = [m for m in rates["measurements"] if m["rules"] == ["RATE-4"]]
    assert len(cycles) == 43
    assert {m["verdict"] for m in cycles} == {"pass"}
    # Where a rate is printed, the clock is said to be assumed.
    (clock,) = [m for m in rates["measurements"] if m["rules"] == ["RATE-6"]]
    assert clock["not_judged"] == "assumed clock: the gates are simulated"
    junit = (tmp_path / "out" / "junit.xml").read_text()
    measured = re.findall(r"[^>\n]*: [\d,.]+ MB/s[^<\n]*", f"{ended.out}\n{junit}")
    assert len(measured) > 20
    assert [line for line in measured if "assumed clock" not in line] == []
    assert "; 62.5 MHz (assumed clock); " in ended.out.split("PASS")[1].splitlines()[0]
    # A run that passed leaves no cartridge behind.
    assert found["cartridges"] is None
    assert not any(path.is_dir() for path in (tmp_path / "out").iterdir())


def check_provenance(found: dict[str, Any], state: Path, lab: Path) -> None:
    """Check the provenance of a run against what made it."""
    version = json.loads(rig("--version", "--json").out)
    software, gates = found["software"], found["gates"]
    assert software["git_commit"][:12] == version["commit"][:12]
    assert software["git_clean"] is ("+dirty" not in version["commit"])
    assert software["verilator"] == version["verilator"]
    assert software["packages"]["cocotb"] == "2.1.0"
    assert gates["build_hash"] == f"0x{gates['source_hash'][:8]}"
    assert version["gates"] == f"sim_top-plain-{gates['source_hash']}"
    assert (gates["origin"], gates["rtl_sha256"]) == ("checkout", rtl_sha256())
    digest = hashlib.sha256(lab.read_bytes()).hexdigest()
    assert found["lab_file"] == {"path": str(lab), "sha256": digest}
    slots = subprocess.run(
        ["softhsm2-util", "--show-slots"],
        env={**os.environ, "SOFTHSM2_CONF": str(state / "softhsm2.conf")},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    shown = {line.split(":")[1].strip() for line in slots.splitlines() if "Serial number:" in line}
    assert {token["serial"] for token in found["tokens"]} == shown - {""}
    for token in found["tokens"]:
        assert (token["manufacturer"], token["model"]) == ("SoftHSM project", "SoftHSM v2")
        assert f"Firmware version: {token['firmware']}" in re.sub(r":\s+", ": ", slots)
    certificate = load_certificate(state / "pki" / "ekm-tls.pem")
    (ekm,) = found["key_managers"]
    assert ekm["certificate_sha256"] == certificate.fingerprint(hashes.SHA256()).hex()
    assert found["seeds"]["power_up"] is found["link_faults"] is None


@pytest.mark.rule("RATE-1", "RATE-3")
@pytest.mark.parametrize(
    ("name", "failing"),
    [
        ("encrypt_path_8_times_slower", "pool 2: BOT-2e encrypted write from BOT, over clear"),
        ("evenly_5_percent_slower", "pool 1: READ-3 clear read, over the promise"),
        ("decrypt_only", "pool 2: READ-2e decrypted read, over clear"),
    ],
)
def test_run_fails_a_step_on_slow_gates(
    tmp_path: Path, own_state: Path, slow_rtl: Path, name: str, failing: str
) -> None:
    file = tmp_path / "file"
    file.write_bytes(os.urandom(1_500_000))
    options = RunOptions(data=(file,), out=tmp_path / "out", scenarios=("round_trip",))
    with slow_simulation(slow_rtl, SLOW[name]):
        run_lab(load_lab(lab_file(tmp_path)), own_state, options)
    found = results(tmp_path / "out")
    assert found["verdict"] == "fail"
    failed = [m["name"] for m in found["scenarios"][0]["measurements"] if m["verdict"] == "fail"]
    assert failing in failed


@pytest.mark.parametrize("options", [ROUND_TRIP, ("--waves",)])
def test_run_refuses_thorough_where_it_has_no_effect(
    tmp_path: Path, own_state: Path, options: tuple[str, ...]
) -> None:
    ended = rig("run", "--lab", lab_file(tmp_path), "--thorough", *options)
    assert ended.code == 2
    assert "leave --thorough out" in ended.err


@pytest.mark.rule("RATE-5")
def test_run_counts_four_million_clocks_and_ten_when_thorough(
    tmp_path: Path, own_state: Path
) -> None:
    for options, least in (((), 4_000_000), (("--thorough",), 10_000_000)):
        out = tmp_path / str(least)
        ended = rig(
            *("run", "--lab", lab_file(tmp_path), "--out", out, "--scenario", "rates"), *options
        )
        assert (ended.code, ended.err) == (0, "")
        (rates,) = results(out)["scenarios"]
        gap = next(m for m in rates["measurements"] if m["name"] == "longest gap")
        assert gap["detail"]["cycles"] >= least


def test_run_judges_no_rate_of_a_little_data(tmp_path: Path, own_state: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"abc")
    ended = run(tmp_path, file, *ROUND_TRIP)
    assert (ended.code, ended.err) == (0, "")
    assert "MB/s to tape" not in ended.out
    measured = results(tmp_path / "out")["scenarios"][0]["measurements"]
    verdicts = {
        m["name"]: m["verdict"]
        for m in measured
        if m["unit"] != "clocks" and "counted by the engine" not in m["name"]
    }
    assert set(verdicts.values()) == {"not judged"}
    suite = read_junit(tmp_path / "out" / "junit.xml")[0]
    assert int(suite.attrib["skipped"]) == len(verdicts)


@pytest.mark.rule("RATE-2")
def test_run_fails_with_too_slow_an_engine(tmp_path: Path, own_state: Path, data: Path) -> None:
    lab = lab_file(tmp_path, ("clock_mhz: 62.5 ", "clock_mhz: 10 "), ("TS1120 ", "TS1140 "))
    ended = run(tmp_path, data, lab=lab)
    assert (ended.code, ended.err) == (1, "")
    assert "FAIL" in ended.out
    assert "fail  engine rate, encrypt, 256 KiB records" in ended.out
    assert "--waves" in ended.out
    assert results(tmp_path / "out")["verdict"] == "fail"
    # Its cartridges are kept, and no run into the same folder begins.
    nodes = kept_nodes(tmp_path / "out")
    assert formats(nodes) == {"TAP001": TapeFormat.CLEAR, "TAP002": TapeFormat.ENCRYPTED}
    before = files_below(tmp_path / "out")
    sentence = run(tmp_path, data, *ROUND_TRIP).sentence()
    assert "holds the results of a run already (results.json)" in sentence
    assert files_below(tmp_path / "out") == before


def test_run_writes_a_waveform(tmp_path: Path, own_state: Path, data: Path) -> None:
    ended = run(tmp_path, data / "a.txt", "--waves", *ROUND_TRIP)
    assert (ended.code, ended.err) == (0, "")
    assert (tmp_path / "out" / "waves.fst").stat().st_size > 10_000
    assert str(tmp_path / "out" / "waves.fst") in ended.out


# What is wrong: one sentence, results that say so, and nothing lost ----------------------------


def refused(tmp_path: Path, ended: Ended) -> str:
    sentence = ended.sentence()
    found = results(tmp_path / "out")
    assert found["verdict"] == "error"
    errors = [found["error"], *(scenario["error"] for scenario in found["scenarios"])]
    assert sentence in errors
    return sentence


def test_run_names_a_key_manager_that_is_down(tmp_path: Path, own_state: Path, data: Path) -> None:
    port = reserve_port()
    lab = lab_file(tmp_path, ("port: 0", f"port: {port}"), ("start: true ", "start: false "))
    ended = run(tmp_path, data, *ROUND_TRIP, lab=lab)
    sentence = refused(tmp_path, ended)
    assert f"127.0.0.1:{port}" in sentence
    assert "--waves" not in ended.out
    assert results(tmp_path / "out")["cartridges"] is None


def test_run_says_how_its_key_manager_ended(tmp_path: Path, own_state: Path, data: Path) -> None:
    with started(tmp_path, data) as process:
        os.kill(key_manager_of(process.pid), signal.SIGKILL)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    log = own_state / "ekm" / "main" / "audit.jsonl.messages"
    assert f"its process was ended by SIGKILL; it wrote nothing to its log {log}; run" in err
    assert "rig ekm serve" not in err


def key_manager_of(parent: int) -> int:
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if b"hsm.ekm.service.front" in Path(f"/proc/{child}/cmdline").read_bytes():
            return int(child)
    raise AssertionError("the run has no key manager")


@pytest.mark.rule("EKM-6", "EKM-7")
def test_run_passes_with_the_primary_key_manager_down(
    tmp_path: Path, own_state: Path, data: Path
) -> None:
    """The secondary serves; console and results report the loss."""
    absent = f"- {{name: gone, port: {reserve_port()}, start: false, token: ekm}}"
    lab = lab_file(tmp_path, ("ekms:\n", f"ekms:\n  {absent}\n"))
    ended = run(tmp_path, data, *ROUND_TRIP, lab=lab)
    assert (ended.code, ended.err) == (0, "")
    found = results(tmp_path / "out")
    assert [(n["kind"], n["about"]) for n in found["notices"]] == [
        ("intervention raised", "gone"),
        ("host notice", "no key manager"),
    ]
    assert found["notices"][1]["detail"] == {"mode": "degraded", "up": ["main"], "down": ["gone"]}
    for notice in found["notices"]:
        assert found["started"] <= notice["time"] <= found["started"] + found["duration_s"]
        clock = time.strftime("%H:%M:%S", time.localtime(notice["time"]))
        assert f"{clock} {notice['kind'].upper()}  {notice['text']}" in ended.out


@pytest.mark.rule("EKM-4", "EKM-6", "EKM-7", "KEY-4", "KEY-6", "KEY-7", "KEY-8", "DR-4")
def test_two_sites_scenario_passes(tmp_path: Path, own_state: Path, data: Path) -> None:
    """Every check passes; expected failures are not failures."""
    arguments = ("--lab", lab_file(tmp_path), "--data", data, "--out", tmp_path / "out")
    ended = rig("run", *arguments, "--scenario", "two_sites", timeout=900)
    assert (ended.code, ended.err) == (0, "")
    found = results(tmp_path / "out")
    (scenario,) = found["scenarios"]
    assert scenario["verdict"] == "pass"
    assert len(scenario["checks"]) == 14
    failed = [step for step in scenario["steps"] if step["outcome"] != "ok"]
    assert [(step["step"], step["outcome"]) for step in failed] == [("READ-2c", "expected")] * 6
    errors = [step["detail"]["error"] for step in failed]
    # Read at the DR site, read there for a new catalogue, read at main without a KEK.
    dr_key, lost_key = "June 2007 DR Site Key", "May 2007 Key"
    assert [dr_key in error for error in errors] == [True, True, False, False, False, False]
    assert [lost_key in error for error in errors] == [False, False, True, False, True, False]
    assert [notice["kind"] for notice in found["notices"]] == [
        "intervention raised",
        "host notice",
        "intervention cleared",
        "host notice",
    ]
    # The DR site was never given main's private half, nor main the DR site's.
    for here, there in (("main", "dr"), ("dr", "main")):
        assert (own_state / "sites" / here / "partners" / f"{there}-ekm.pem").exists()


def test_run_names_a_port_in_use(tmp_path: Path, own_state: Path, data: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        lab = lab_file(tmp_path, ("port: 0", f"port: {port}"))
        sentence = refused(tmp_path, run(tmp_path, data, *ROUND_TRIP, lab=lab))
    assert f"127.0.0.1:{port}" in sentence


def test_run_names_the_token_of_a_wrong_pin(tmp_path: Path, own_state: Path, data: Path) -> None:
    (tmp_path / "pin").write_text("0000000000000000\n")
    (tmp_path / "pin").chmod(0o600)
    lab = lab_file(tmp_path, ("# pin: {env: NAME} ", "pin: {file: pin} #"))
    sentence = refused(tmp_path, run(tmp_path, data, *ROUND_TRIP, lab=lab))
    assert "taperig-ekm" in sentence
    assert "PIN" in sentence


def test_run_names_an_absent_token(tmp_path: Path, own_state: Path, data: Path) -> None:
    lab = lab_file(
        tmp_path,
        ("module: softhsm ", f"module: {find_module()} #"),
        ("label: taperig-ekm", "label: somebody-elses"),
        ("# pin: {env: NAME} ", "pin: {env: HOME} #"),
    )
    assert "somebody-elses" in refused(tmp_path, run(tmp_path, data, *ROUND_TRIP, lab=lab))


@pytest.mark.rule("KEY-9")
def test_run_names_an_absent_key_label(tmp_path: Path, own_state: Path, data: Path) -> None:
    named = ("{label: June 2007 Key, mode: clear}", "{label: May 1999 Key}")
    unlisted = run(tmp_path, data, *ROUND_TRIP, lab=lab_file(tmp_path, named)).sentence()
    assert "pool 2 names the key 'May 1999 Key', which keks does not list" in unlisted
    listed = ("keks:", "keks:\n  - {label: May 1999 Key, make: false}\n#")
    lab = lab_file(tmp_path, named, listed)
    sentence = refused(tmp_path, run(tmp_path, data, *ROUND_TRIP, lab=lab))
    assert "The key 'May 1999 Key' of node main's pools is in no token" in sentence
    assert results(tmp_path / "out")["cartridges"] is None


def test_run_names_an_unreadable_file(tmp_path: Path, own_state: Path, data: Path) -> None:
    assert "no/such/file" in run(tmp_path, tmp_path / "no/such/file").sentence()
    (tmp_path / "nothing").mkdir()
    assert "There is no file in" in run(tmp_path, tmp_path / "nothing").sentence()
    os.mkfifo(tmp_path / "pipe")
    assert "neither a file nor a folder" in run(tmp_path, tmp_path / "pipe").sentence()
    # A file whose reading fails although its mode allows it (as on a bad disk).
    assert "/proc/self/mem" in refused(tmp_path, run(tmp_path, Path("/proc/self/mem"), *ROUND_TRIP))
    assert set(formats(kept_nodes(tmp_path / "out")).values()) == {TapeFormat.BLANK}


def test_run_leaves_the_nodes_of_the_lab_untouched(
    tmp_path: Path, own_state: Path, data: Path
) -> None:
    """The VOLSERs are the same, the cartridges are different."""
    lab = lab_file(tmp_path)
    assert rig("ve", "write", data / "a.txt", "--lab", lab).code == 0
    assert rig("ve", "work", "--lab", lab).code == 0
    node = own_state / "ve" / "main"
    before = files_below(node)
    assert "cartridges/TAP001.tape" in before
    for _ in range(2):
        ended = run(tmp_path, data, *ROUND_TRIP, lab=lab)
        assert (ended.code, ended.err) == (0, "")
        assert "BOT-2e   TAP002" in ended.out
        assert files_below(node) == before
        shutil.rmtree(tmp_path / "out")


@pytest.mark.rule("CART-4", "POOL-3")
def test_run_that_passed_keeps_no_key_from_being_retired(
    tmp_path: Path, own_state: Path, data: Path
) -> None:
    """Its cartridges are forgotten; those of a failed run still count."""
    lab = lab_file(tmp_path)
    label = "June 2007 DR Site Key"

    def users() -> list[str]:
        found = json.loads(rig("ekm", "key", "users", label, "--lab", lab, "--json").out)
        return [user["cartridge_id"] for user in found]

    assert run(tmp_path, data, *ROUND_TRIP, lab=lab).code == 0
    assert users() == []
    shutil.rmtree(tmp_path / "out")
    wrong = lab_file(tmp_path, ("clock_mhz: 62.5 ", "clock_mhz: 1 "))
    long = tmp_path / "long"
    long.write_bytes(bytes(range(256)) * 8000)
    assert run(tmp_path, long, *ROUND_TRIP, lab=wrong).code == 1
    nodes = kept_nodes(tmp_path / "out")
    with Cartridge.open(nodes / "round_trip" / "cartridges" / "TAP002.tape") as cartridge:
        assert users() == [cartridge.memory.cartridge_id.hex()]
    assert "TAP002" in rig("ekm", "key", "retire", label, "--lab", lab).sentence()
    failed = own_state / "runs" / "20260101-000000"  # as one without --out
    failed.parent.mkdir(exist_ok=True)
    shutil.move(tmp_path / "out", failed)
    cleaned = rig("runs", "clean", "--keep", "0")
    assert "forgot   1 cartridge, at all their key managers\n" in cleaned.out
    assert "rig ekm cartridge forget" not in cleaned.out
    assert users() == []
    ended = rig("ekm", "key", "retire", label, "--lab", lab)
    assert (ended.code, ended.err) == (0, "")
    assert f"{label} removed" in ended.out


def test_run_refuses_a_state_folder_that_another_run_uses(
    tmp_path: Path, own_state: Path, data: Path
) -> None:
    with started(tmp_path, data) as first:
        sentence = run(tmp_path, data).sentence()
        assert first.poll() is None
    assert "Another run uses" in sentence


# Cut short -------------------------------------------------------------------------------------


def started(
    folder: Path, data: Path, until: str = "BOT-1", megabytes: int = 16
) -> subprocess.Popen[str]:
    """Start a run, and return it when a line of its output begins so.

    Until BOT-1: it has begun to move data and has seconds left.
    """
    (data / "much").write_bytes(os.urandom(1 << 20) * megabytes)
    process = subprocess.Popen(
        [
            RIG,
            "run",
            "--lab",
            lab_file(folder),
            "--data",
            data,
            "--out",
            folder / "cut",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(until):
            return process
    raise AssertionError(process.communicate())


def alive_in_session(session: int) -> list[str]:
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            if os.getsid(int(folder.name)) == session:
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if command:
                    found.append(command)
        except (OSError, ProcessLookupError):
            continue
    return found


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_run_that_is_interrupted_leaves_no_process(
    tmp_path: Path, own_state: Path, data: Path, how: signal.Signals
) -> None:
    """No traceback and no process is left, and the next run passes."""
    process = started(tmp_path, data)
    process.send_signal(how)
    out, err = process.communicate(timeout=60)
    assert process.returncode == (-how if how is signal.SIGKILL else 128 + how)
    assert "Traceback" not in err
    wait_until(lambda: not alive_in_session(process.pid))
    if how is not signal.SIGKILL:
        assert "failed" not in out
        assert "\nINTERRUPTED  " in out
        cut = results(tmp_path / "cut")
        assert cut["verdict"] == "interrupted"
        scenario, rest = cut["scenarios"]
        assert scenario["verdict"] == "interrupted"
        assert (rest["name"], rest["verdict"]) == ("rates", "skipped")
        outcomes = {step["outcome"] for step in scenario["steps"]}
        assert outcomes <= {"ok", "interrupted"}
        assert ("  interrupted\n" in out) == ("interrupted" in outcomes)
    (data / "much").unlink()
    assert run(tmp_path, data, *ROUND_TRIP).code == 0


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(
    ("how", "rates"), [(signal.SIGTERM, "interrupted"), (signal.SIGKILL, "skipped")]
)
def test_run_cut_in_a_later_scenario_keeps_the_results_of_the_first(
    tmp_path: Path, own_state: Path, data: Path, how: signal.Signals, rates: str
) -> None:
    process = started(tmp_path, data, until="Rates by record size", megabytes=0)
    process.send_signal(how)
    out, _ = process.communicate(timeout=60)
    assert (f"results  {tmp_path / 'cut' / 'results.json'}" in out) == (how is signal.SIGTERM)
    found = results(tmp_path / "cut")
    assert found["verdict"] == "interrupted"
    verdicts = {scenario["name"]: scenario["verdict"] for scenario in found["scenarios"]}
    assert verdicts == {"round_trip": "pass", "rates": rates}
    first = found["scenarios"][0]
    assert len(first["checks"]) == 8
    assert [step["step"] for step in first["steps"]] == [
        *chain.from_iterable((*CLEAR_STEPS, *ENCRYPTED_STEPS))
    ]
    suites = read_junit(tmp_path / "cut" / "junit.xml")
    kind = {"interrupted": "error", "skipped": "skipped"}[rates]
    assert suites.find(f"testsuite[@name='rates']/testcase[@name='rates']/{kind}") is not None


def test_run_with_an_internal_error_keeps_results_and_says_where(
    tmp_path: Path,
    own_state: Path,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("rig.scenarios.rates.measure_stream", fail)
    names = ("round_trip", "rates", "pool_over_time")
    options = RunOptions(data=(data / "a.txt",), out=tmp_path / "out", scenarios=names)
    with pytest.raises(ZeroDivisionError):
        run_lab(load_lab(lab_file(tmp_path)), own_state, options)
    assert f"results  {tmp_path / 'out' / 'results.json'}" in capsys.readouterr().out
    found = results(tmp_path / "out")
    verdicts = {scenario["name"]: scenario["verdict"] for scenario in found["scenarios"]}
    assert verdicts == {"round_trip": "pass", "rates": "error", "pool_over_time": "skipped"}
    assert found["verdict"] == "error"
    assert len([m for m in found["scenarios"][1]["measurements"] if "RATE-2" in m["rules"]]) == 16
    suites = read_junit(tmp_path / "out" / "junit.xml")
    reason = suites.findtext("testsuite[@name='pool_over_time']/testcase/skipped")
    assert reason == "The run ended before it."
