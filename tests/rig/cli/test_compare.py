"""``rig compare`` and ``rig run --baseline`` as commands."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import termios
from pathlib import Path
from typing import Any

import pytest

from tests.support.ports import reserve_port
from tests.support.rig_command import RIG, lab_file, rig

RATES = ("--scenario", "rates", "--seed", "5")


@pytest.fixture(scope="module")
def run_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the folder of a run of the rates, and its state."""
    folder = tmp_path_factory.mktemp("run")
    state, out = folder / "state", folder / "old"
    lab = lab_file(folder, ("port: 0", f"port: {reserve_port()}"))
    ended = rig("run", "--lab", lab, *RATES, "--out", out, TAPERIG_STATE=str(state))
    assert (ended.code, ended.err) == (0, "")
    return out, state


def changed(source: Path, target: Path, rate: float) -> Path:
    """Copy a results.json with another rate; return the copy."""
    found = json.loads(source.read_text())
    item = next(m for m in found["scenarios"][0]["measurements"] if m["rules"] == ["RATE-2"])
    item["value"] = rate
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(found))
    return target


def times_out(value: Any) -> Any:
    """Return a value without times and paths of the run."""
    left_out = ("started", "duration_s", "phases_s", "command")
    if isinstance(value, dict):
        return {key: times_out(item) for key, item in value.items() if key not in left_out}
    return [times_out(item) for item in value] if isinstance(value, list) else value


def test_run_with_a_baseline_of_its_own_differs_in_times_only(
    tmp_path: Path, run_once: tuple[Path, Path]
) -> None:
    old, state = run_once
    new = tmp_path / "new"
    ended = rig(
        *("run", "--lab", old.parent / "lab.yaml", *RATES, "--out", new, "--baseline", old),
        TAPERIG_STATE=str(state),
    )
    assert (ended.code, ended.err) == (0, "")
    assert "pass  nothing is worse than in the baseline" in ended.out
    before, after = (json.loads((each / "results.json").read_text()) for each in (old, new))
    assert after["scenarios"].pop()["name"] == "comparison"
    assert times_out(after) == times_out(before)
    compared = rig("compare", old, new)
    assert (compared.code, compared.err) == (0, "")
    count, verdict = compared.out.splitlines()
    assert count.endswith(" the same")
    assert verdict == "PASS  nothing is worse"


def test_run_fails_where_it_is_worse_than_its_baseline(
    tmp_path: Path, run_once: tuple[Path, Path]
) -> None:
    old, state = run_once
    faster = changed(old / "results.json", tmp_path / "faster.json", 1100.0)
    ended = rig(
        *("run", "--lab", old.parent / "lab.yaml", *RATES, "--baseline", faster),
        *("--out", tmp_path / "out"),
        TAPERIG_STATE=str(state),
    )
    assert (ended.code, ended.err) == (1, "")
    name = "engine rate, encrypt, 2 KiB records"
    words = f"worse: rates: {name} (assumed clock), 1,100.0 MB/s -> 977.1 MB/s"
    assert f"fail  nothing is worse than in the baseline: {words}" in ended.out
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["verdict"] == "fail"
    assert words in (tmp_path / "out" / "junit.xml").read_text().replace("&gt;", ">")


def test_compare_names_what_is_worse_and_by_how_much(
    tmp_path: Path, run_once: tuple[Path, Path]
) -> None:
    old, _ = run_once
    slower = changed(old / "results.json", tmp_path / "slower.json", 122.1)
    ended = rig("compare", old, slower)
    assert (ended.code, ended.err) == (1, "")
    assert (
        "worse  rates: engine rate, encrypt, 2 KiB records (assumed clock)  977.1 MB/s" in ended.out
    )
    assert "122.1 MB/s  -87.50%" in ended.out
    assert ended.out.splitlines()[-1] == "FAIL  something is worse or missing"
    found = json.loads(rig("compare", old, slower, "--json").out)
    assert found["verdict"] == "fail"
    (run,) = found["runs"]
    (difference,) = run["differences"]
    assert (difference["kind"], difference["new"]) == ("worse", 122.1)
    back = rig("compare", slower, old)
    assert back.code == 0
    assert back.out.startswith("        what ")
    assert "\nbetter  rates: " in back.out


def test_compare_of_folders_compares_runs_of_the_same_name(
    tmp_path: Path, run_once: tuple[Path, Path]
) -> None:
    source = run_once[0] / "results.json"
    for name in ("a", "b"):
        changed(source, tmp_path / "old" / f"{name}.json", 900.0)
    changed(source, tmp_path / "new" / "a.json", 900.0)
    ended = rig("compare", tmp_path / "old", tmp_path / "new")
    assert (ended.code, ended.err) == (1, "")
    assert f"missing  the run  {tmp_path}/old/b.json  -" in ended.out
    assert rig("compare", tmp_path / "new", tmp_path / "old").code == 0
    runs = tmp_path / "runs"
    for name in ("one", "two"):
        (runs / name).mkdir(parents=True)
        changed(source, runs / name / "results.json", 900.0)
    assert rig("compare", runs, runs).out.splitlines()[::2] == [
        "one",
        "two",
        "PASS  nothing is worse",
    ]
    sentence = rig("compare", runs, tmp_path / "new").sentence()
    assert "cannot be compared: they hold no run of the same name" in sentence


@pytest.mark.parametrize("columns", [80, 60])
def test_compare_fits_the_terminal(
    tmp_path: Path, run_once: tuple[Path, Path], columns: int
) -> None:
    slower = changed(run_once[0] / "results.json", tmp_path / "slower.json", 122.1)
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    with subprocess.Popen(
        [RIG, "compare", run_once[0], slower],
        stdin=slave,
        stdout=slave,
        env={**environment, "TERM": "xterm"},
    ) as process:
        os.close(slave)
        shown = b""
        try:
            while piece := os.read(master, 65536):
                shown += piece
        except OSError:  # the terminal's other end is closed
            pass
        os.close(master)
    assert process.returncode == 1
    lines = shown.decode().splitlines()
    assert max(map(len, lines)) <= columns
    assert "-87.50%" in shown.decode()
    assert "FAIL  something is worse or missing" in lines


def good(source: Path) -> dict[str, Any]:
    return dict(json.loads(source.read_text()))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is no whole JSON text"),
        (b"junk \xff", "it is no whole JSON text"),
        (b"[" * 100_000, "it is no whole JSON text"),
        (b"[1]", "it has no format"),
        (b"{}", "it has no format"),
        (b'{"format": "taperig-results-1"}', "its format is 'taperig-results-1', and this rig"),
        (b'{"format": 7}', "its format is '7', and this rig reads"),
        (b'{"format": "taperig-results-2"}', "it has no 'verdict'"),
        ("truncated", "it is no whole JSON text"),
        ("digits", "it is no whole JSON text"),
        ("infinite", "it is no whole JSON text"),
        ("no number", "it is no whole JSON text"),
        ("text", "scenarios/0/measurements/0/value is not as the schema says"),
        ("verdict", "scenarios/0/verdict is not as the schema says"),
    ],
)
def test_compare_refuses_a_damaged_file_in_a_sentence(
    tmp_path: Path, run_once: tuple[Path, Path], content: bytes | str, words: str
) -> None:
    source = run_once[0] / "results.json"
    text = source.read_text()
    value = f'"value": {good(source)["scenarios"][0]["measurements"][0]["value"]}'
    damaged = {
        "truncated": text[: len(text) // 2],
        "digits": text.replace(value, '"value": ' + "9" * 5000, 1),
        "infinite": text.replace(value, '"value": 1e999', 1),
        "no number": text.replace(value, '"value": NaN', 1),
        "text": text.replace(value, '"value": "fast"', 1),
        "verdict": json.dumps(
            {**good(source), "scenarios": [{**good(source)["scenarios"][0], "verdict": "good"}]}
        ),
    }
    bad = tmp_path / "bad.json"
    bad.write_bytes(content if isinstance(content, bytes) else damaged[content].encode())
    for pair in ((bad, source), (source, bad)):
        sentence = rig("compare", *pair).sentence()
        assert sentence.startswith(f"{bad} is no results.json that can be compared: {words}")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("absent", "cannot be read (No such file or directory)"),
        ("empty", "holds no results"),
        ("pipe", "cannot be read (it is a pipe or device that gave nothing"),
        ("/dev/zero", "cannot be read (it has more than"),
    ],
)
def test_run_and_compare_refuse_what_is_no_file_in_a_sentence(
    tmp_path: Path, run_once: tuple[Path, Path], name: str, words: str
) -> None:
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")
    assert words in rig("compare", run_once[0], tmp_path / name).sentence()
    state = tmp_path / "state"
    ended = rig("run", "--baseline", tmp_path / name, TAPERIG_STATE=str(state))
    assert words in ended.sentence()
    assert not (state / "runs").exists()
