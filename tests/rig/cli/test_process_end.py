"""The end of ``rig``: an exit code, one sentence, a traceback in a file."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.rig_command import RIG, lab_file, rig

SECRET = "fa1bc2de3fa4bc5de6fa7bc8de9fab0c"


def raising(folder: Path, module: str, statement: str) -> dict[str, str]:
    """An environment in which importing a module does what a statement says."""
    stub = folder / "stub"
    stub.mkdir()
    rest = f"sys.path.remove({str(stub)!r}); del sys.modules[{module!r}]; import {module}"
    (stub / f"{module}.py").write_text(f"import sys, os, signal\n{statement}\n{rest}\n")
    return {"PYTHONPATH": str(stub), "TAPERIG_STATE": str(folder / "state")}


def log_named_in(sentence: str) -> Path:
    match = re.search(r"the traceback is in (\S+\.log)\.$", sentence)
    assert match, sentence
    return Path(match[1])


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("raise ZeroDivisionError('no')", "Internal error of `rig hsm list` (ZeroDivisionError"),
        ("raise EOFError", "Internal error of `rig hsm list` (EOFError"),
        ("def f(): f()\nf()", "Internal error of `rig hsm list` (RecursionError"),
        ("raise MemoryError", "`rig hsm list` ran out of memory"),
        ("open('/proc/1/mem/x')", "`rig hsm list` failed: Not a directory (/proc/1/mem/x)"),
        ("raise PermissionError(13, 'Permission denied', '/x')", "(/x); change its access rights"),
        ("raise BrokenPipeError(32, 'Broken pipe')", "`rig hsm list` failed: Broken pipe"),
        ("raise ModuleNotFoundError('', name='yaml')", "needs the Python package yaml"),
    ],
)
def test_rig_reports_an_uncaught_error_in_a_sentence_and_a_log(
    tmp_path: Path, statement: str, words: str
) -> None:
    ended = rig("hsm", "list", env=raising(tmp_path, "yaml", statement))
    sentence = ended.sentence()
    assert words in sentence
    log = log_named_in(sentence)
    assert log.parent == tmp_path / "state" / "errors"
    assert "yaml.py" in log.read_text()
    assert log.stat().st_mode & 0o077 == 0


def test_crash_log_goes_to_the_temporary_folder_without_a_state(tmp_path: Path) -> None:
    environment = raising(tmp_path, "yaml", "raise ZeroDivisionError")
    environment |= {"TAPERIG_STATE": "/proc/no", "TMPDIR": str(tmp_path)}
    assert log_named_in(rig("hsm", "list", env=environment).sentence()).parent == tmp_path


def test_crash_log_holds_no_key_material(tmp_path: Path) -> None:
    statement = (
        f"key = '{SECRET}'; pin = '83920174'\n"
        f"def fail(key, pin): raise ValueError(f'{{key}} {{pin}} ' + repr(b'x7!key'))\n"
        "try:\n    int('s3cr3t-pin')\nexcept ValueError:\n    fail(key, pin)"
    )
    ended = rig("hsm", "list", env=raising(tmp_path, "yaml", statement))
    text = log_named_in(ended.sentence()).read_text()
    lines = [line for line in text.splitlines() if line.startswith("ValueError")]
    assert len(lines) == 2
    for secret in (SECRET, "83920174", "x7!key", "s3cr3t-pin"):
        assert all(secret not in line for line in lines)
        assert secret not in ended.err


@pytest.mark.parametrize(
    ("module", "command"),
    [("typer", ["--help"]), ("yaml", ["hsm", "list"])],
)
def test_rig_says_that_it_was_interrupted_at_an_import(
    tmp_path: Path, module: str, command: list[str]
) -> None:
    ended = rig(*command, env=raising(tmp_path, module, "raise KeyboardInterrupt"))
    assert (ended.code, ended.err) == (130, "rig: interrupted\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.usefixtures("interruptible")
def test_rig_ends_in_good_order_on_a_signal_and_says_so(
    tmp_path: Path, number: signal.Signals
) -> None:
    statement = (
        "import atexit; atexit.register(print, 'cleaned up')\n"
        f"os.kill(os.getpid(), {int(number)})\nsignal.pause()"
    )
    ended = rig("hsm", "list", env=raising(tmp_path, "yaml", statement))
    assert (ended.code, ended.err) == (128 + number, "rig: interrupted\n")
    assert ended.out == "cleaned up\n"


def test_rig_leaves_an_ignored_hangup_ignored(tmp_path: Path) -> None:
    environment = raising(tmp_path, "yaml", "os.kill(os.getpid(), signal.SIGHUP); sys.exit(0)")
    done = subprocess.run(
        ["nohup", RIG, "hsm", "list"],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_rig_fails_on_an_uncaught_error_of_a_thread(tmp_path: Path) -> None:
    statement = (
        "import threading\n"
        "thread = threading.Thread(target=lambda: 1 / 0); thread.start(); thread.join()\n"
        "sys.exit(0)"
    )
    assert (
        "ZeroDivisionError"
        in rig("hsm", "list", env=raising(tmp_path, "yaml", statement)).sentence()
    )


@pytest.mark.parametrize(
    ("child", "command"),
    [
        ("hsm.provisioner", ["hsm", "init"]),
        ("rig.drive.secure_element_process", ["run", "--scenario", "round_trip"]),
        ("hsm.ekm.service.front", ["run", "--scenario", "round_trip"]),
        ("hsm.ekm.service.worker", ["run", "--scenario", "round_trip"]),
    ],
)
def test_rig_reports_an_uncaught_error_of_a_child_in_a_sentence(
    tmp_path: Path, child: str, command: list[str]
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        f"if {child!r} in sys.orig_argv:\n"
        "    import json, pickle, cbor2\n"
        "    def fail(*a, **k): raise ZeroDivisionError('no')\n"
        "    json.load = pickle.loads = fail\n"
        "    import hsm.ekm.config, hsm.keys.pki\n"
        "    hsm.ekm.config.parse_config = hsm.keys.pki.load_certificate = fail\n"
    )
    lab = lab_file(tmp_path)
    state = str(tmp_path / "state")
    ended = rig(*command, "--lab", lab, PYTHONPATH=str(tmp_path), TAPERIG_STATE=state)
    assert ended.code == 2
    assert "Traceback" not in ended.out + ended.err
    (sentence,) = [line for line in ended.err.splitlines() if "traceback" in line]
    assert "ZeroDivisionError" in sentence
    assert "ZeroDivisionError" in log_named_in(sentence).read_text()


def test_rig_reports_a_closed_standard_output_in_a_sentence() -> None:
    process = subprocess.Popen(
        [RIG, "rules", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate()
    assert err.splitlines()[-1:] == [
        "rig: Standard output was closed before all was written to it."
    ]
    assert process.returncode == 2


def test_rig_reports_a_full_standard_output_in_a_sentence() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [RIG, "--help"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "No space left on device; free some space" in line


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_rig_escapes_what_the_terminal_cannot_show(tmp_path: Path, encoding: str) -> None:
    ended = rig("kat", tmp_path / "no such €.rsp", PYTHONIOENCODING=encoding, LC_ALL="C")
    assert "\\u20ac.rsp" in ended.sentence()


def test_run_reports_results_that_find_no_room_in_a_sentence(tmp_path: Path) -> None:
    data = tmp_path / "a.txt"
    data.write_bytes(b"x" * 100)
    done = subprocess.run(
        [RIG, "run", "--scenario", "round_trip", "--data", data, "--lab", lab_file(tmp_path)],
        env={**os.environ, "TAPERIG_STATE": str(tmp_path / "state"), **small_files(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert re.match(
        r"rig: The results of the run cannot be written to \S+/results.json \(File too large\); ",
        line,
    )
    assert not list((tmp_path / "state" / "runs").glob("*/*results.json*"))


def small_files(folder: Path) -> dict[str, str]:
    """An environment in which ``rig`` cannot write its results."""
    (folder / "sitecustomize.py").write_text(
        "import sys\n"
        f"if {str(RIG)!r} in sys.orig_argv:\n"
        "    import resource, rig.results.results as results\n"
        "    write = results.write_whole\n"
        "    def limited(path, text):\n"
        "        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))\n"
        "        try:\n            return write(path, text)\n"
        "        finally:\n"
        "            resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))\n"
        "    results.write_whole = limited\n"
    )
    return {"PYTHONPATH": str(folder)}


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "--scenario", "round_trip"),
        ("runs", "list"),
        ("ve", "status"),
        ("ekm", "drive", "list"),
        ("hsm", "list"),
    ],
    ids=" ".join,
)
def test_rig_blames_the_state_folder_when_home_is_no_folder(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    home = tmp_path / "home"
    home.touch()
    unset = {f"XDG_{name}_HOME": "" for name in ("CACHE", "STATE", "CONFIG", "DATA")}
    sentence = rig(*arguments, HOME=str(home), TAPERIG_STATE="", env=unset).sentence()
    assert f"{home}/.local/state/taperig" in sentence
    assert "set TAPERIG_STATE to a folder that you can" in sentence


def test_rig_run_blames_the_cache_when_home_is_no_folder(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.touch()
    data = tmp_path / "data"
    data.write_bytes(b"x")
    ended = rig(
        *("run", "--scenario", "round_trip", "--data", data, "--lab", lab_file(tmp_path)),
        HOME=str(home),
        TAPERIG_STATE=str(tmp_path / "state"),
        XDG_CACHE_HOME="",
    )
    assert f"cannot be stored in {home}/.cache/taperig/sim" in ended.sentence()
    assert "set XDG_CACHE_HOME to a folder that you can write" in ended.err
