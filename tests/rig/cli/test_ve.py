"""``rig ve``: commands, one after the other, on one node.

They run in this process, which saves starting Python thirty times; the last test starts it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from typer.testing import CliRunner

from hsm.errors import TaperigError
from rig.cli.main import app
from rig.ve.catalogue import operator_messages, settings
from rig.ve.catalogue.database import Catalogue
from rig.ve.catalogue.schema import LogicalRow, TrafficRow
from rig.ve.volumes.image_transfer import inspect_image
from tests.support.rig_command import DEFAULT_LAB, rig
from tests.support.tape_images import labelled, write_tape

NODES = """
nodes:
  first:
    storage_groups: {PLAIN: 1, SECRET: 2}
    management_classes: {TWICE: 1}
    cartridge_mb: 0.03
    cartridges: 4
  second:
    drives: [TR0000000002]
    pools:
      7: {encrypt: false}
    cartridges: 1
"""


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """The default lab with two nodes."""
    text = DEFAULT_LAB.replace("port: 3801", "port: 0")
    drive = "  - serial: TR0000000001\n    model: TS1120 "
    assert drive in text
    other = drive.replace("TR0000000001", "TR0000000002").rstrip() + "\n    board: sim\n"
    text = text.replace(drive, other + drive) + NODES.replace(
        "first:", "first:\n    drives: [TR0000000001]"
    )
    path = tmp_path / "lab.yaml"
    path.write_text(text)
    return path


def ve(lab: Path, *arguments: str | Path, code: int = 0) -> str:
    """Run a command; return its standard output."""
    done = CliRunner().invoke(app, ["ve", *map(str, arguments), "--lab", str(lab)])
    assert done.exit_code == code, (done.stdout, done.stderr, done.exception)
    return done.stdout


def ve_json(lab: Path, *arguments: str | Path, code: int = 0) -> Any:
    return json.loads(ve(lab, *arguments, "--json", code=code))


def refusal(lab: Path, *arguments: str | Path) -> str:
    """Run a command that is refused; return its sentence."""
    done = CliRunner().invoke(app, ["ve", *map(str, arguments), "--lab", str(lab)])
    assert isinstance(done.exception, TaperigError), (done.stdout, done.exception)
    return str(done.exception)


@pytest.mark.rule("POOL-7", "EKM-10")
def test_ve_commands_work_one_after_the_other_on_a_node(
    tmp_path: Path, state: Path, lab: Path
) -> None:
    files = []
    for number in (1, 2, 3):
        files.append(tmp_path / f"file{number}")
        files[-1].write_bytes(bytes([number]) * 10_000 * number)
    assert "0 copies" in ve(lab, "status")
    assert "L00003" in ve(lab, "write", *files, "--storage-group", "SECRET")
    assert ve_json(lab, "status")["waiting_for_tape"] == 3
    worked = ve(lab, "work")
    assert "BOT-2e   TAP001" in worked
    assert "BOT-2e   TAP002" in worked  # 10 and 20 kB fill the first cartridge
    assert ve(lab, "messages").count("Encrypted Physical Tape TAP001") == 1
    assert "there are more: rig ve volumes --after L00002\n" in ve(lab, "volumes", "--limit", "2")
    assert [row["volume"] for row in ve_json(lab, "volumes", "--after", "L00001")] == [
        *("L00002", "L00003")
    ]
    assert ve_json(lab, "volumes", "--storage-group", "PLAIN") == []
    assert ve_json(lab, "volumes", "--not-in-cache") == []
    assert len(ve_json(lab, "volumes", "--in-cache", "--limit", "2")) == 2
    assert ve(lab, "volumes", "--json") == json.dumps(ve_json(lab, "volumes"), indent=2) + "\n"
    volumes = {row["volume"]: row for row in ve_json(lab, "volumes")}
    assert [volumes[name]["copies"][0]["volser"] for name in sorted(volumes)] == [
        *("TAP001", "TAP001", "TAP002")
    ]
    assert [row["volser"] for row in ve_json(lab, "search", "--encryption", "encrypted")] == [
        *("TAP001", "TAP002")
    ]
    assert ve_json(lab, "needs-key", "june 2007 key", code=1)["volumes"] == ["TAP001", "TAP002"]
    # Settings of one node; the other's are its own.
    ve(lab, "pools", "--set", "3", "--no-borrow", "--threshold", "50", "--days-write", "10")
    ve(lab, "constructs", "--storage-group", "LATER=3", "--default-primary", "3")
    pools = {row["pool"]: row for row in ve_json(lab, "pools")}
    assert (pools[3]["borrow"], pools[3]["reclaim"]["days_since_write"]) == (False, 10)
    assert [row["pool"] for row in ve_json(lab, "pools", "--node", "second")] == [7]
    assert ve_json(lab, "constructs")["defaults"] == {"primary_pool": 3, "secondary_pool": 0}
    # Two of the three methods of migration; the scenario migration has the third.
    ve(lab, "expire", "L00002")
    assert "L00001" in ve(lab, "map", "TAP001")
    assert ve_json(lab, "reclaim", "plan")["candidates"][0]["volser"] == "TAP001"
    ve(lab, "reclaim", "inhibit", "mon/00:00+10080")
    assert "reclaim is inhibited until ever" in ve(lab, "reclaim", "plan")
    assert ve(lab, "reclaim", "inhibit") == "mon/00:00+10080\n"
    ve(lab, "reclaim", "inhibit", "mon/22:00+480", "sun/00:30+60")
    assert ve_json(lab, "reclaim", "inhibit") == ["mon/22:00+480", "sun/00:30+60"]
    assert "--clear removes all" in refusal(lab, "reclaim", "inhibit", "--clear", "mon/00:00+1")
    assert "not inhibited at any time" in ve(lab, "reclaim", "inhibit", "--clear")
    ve(lab, "reclaim", "inhibit", "mon/00:00+10080")
    assert ve_json(lab, "move", "TAP001-TAP002", "--to", "1")["waiting"] == []
    assert {row["volser"] for row in ve_json(lab, "search", "--pool", "1")} == {"TAP003", "TAP004"}
    out = tmp_path / "out"
    ve(lab, "read", "L00001", "L00003", "--out", out)
    assert (out / "L00001").read_bytes() == files[0].read_bytes()
    assert (out / "L00003").read_bytes() == files[2].read_bytes()
    assert "nothing wrong" in ve(lab, "check", "--deep")
    rows = ve_json(lab, "stats")
    assert [(row["pool"], row["encrypted_volumes"], row["clear_volumes"]) for row in rows] == [
        (1, 0, 2),
        (2, 3, 0),
    ]
    before = ve_json(lab, "clock")["time"]
    assert ve_json(lab, "clock", "--advance", "30")["time"] > before
    assert "no intervention" in ve(lab, "interventions")


def test_ve_import_and_export_keep_names_and_bytes(tmp_path: Path, state: Path, lab: Path) -> None:
    image = write_tape(tmp_path / "any.aws", *labelled("PAY001", "PAY.ROLL", b"payroll" * 100))
    assert ve(lab, "import", image, "--storage-group", "PLAIN").startswith("PAY001  ")
    assert ve_json(lab, "volumes", "PAY001")[0]["waiting_for_pools"] == [1]
    (tmp_path / "plain").write_bytes(b"a file")
    ve(lab, "write", tmp_path / "plain", "--name", "PLAIN1")
    ve(lab, "export", "PAY001", "PLAIN1", "--out", tmp_path / "out")
    assert (tmp_path / "out" / "PAY001.aws").read_bytes() == image.read_bytes()
    exported = inspect_image(tmp_path / "out" / "PLAIN1.aws")
    assert (exported.volser, exported.data_sets[0].bytes) == ("PLAIN1", 6)
    assert "nothing wrong" in ve(lab, "check", "--deep")


INSTALLATION = """
installation:
  drives:
    - {serial: TR0000000001, features: [9592]}
    - {serial: TR0000000003, features: [9592], method: library-managed}
"""


@pytest.mark.rule("PRE-4", "PRE-5", "PRE-6")
def test_ve_prerequisites_are_listed_and_hold_for_pool_settings(
    tmp_path: Path, state: Path, lab: Path
) -> None:
    assert "does not say what is installed" in refusal(lab, "prerequisites")
    lab.write_text(lab.read_text() + INSTALLATION)
    found = ve_json(lab, "prerequisites", code=1)
    assert [each["rule"] for each in found["findings"]] == ["PRE-5"]
    assert [each["used"] for each in found["drives"]] == [True, False]
    assert "set them to system-managed" in ve(lab, "prerequisites", code=1)
    key = ("--key", "June 2007 Key")
    ve(lab, "pools", "--set", "4", "--encrypt", *key)
    # Without the license, the lab file's own encrypted pool is refused, and so is a setting.
    lab.write_text(
        lab.read_text()
        .replace("installation:\n", "installation:\n  features: [1000]\n")
        .replace("  2:\n    encrypt: true", "  2:\n    encrypt: false")
    )
    assert "9900" in refusal(lab, "pools", "--set", "5", "--encrypt", *key)
    assert "9900" in refusal(lab, "pools", "--set", "5", *key)
    assert "9900" in refusal(lab, "pools", "--set", "5", "--hash-key", "June 2007 Key")


@pytest.mark.rule("PRE-1", "PRE-3", "PRE-7")
@pytest.mark.parametrize(
    ("installed", "why"),
    [
        ("drives: [{serial: TR0000000001}]", "feature 5592 or 9592"),
        ("drives: [{serial: TR0000000001, features: [9592], native: false}]", "emulates a J1A"),
        (
            "drives: [{serial: TR0000000001, features: [9592], method: library-managed}]",
            "library-managed",
        ),
        (
            "library_manager: 534.30\n  drives: [{serial: TR0000000001, features: [9592]}]",
            "needs 534.31",
        ),
        (
            "drives: [{serial: TR0000000001, features: [9592]}, {serial: OLD, model: J1A}]",
            "at least 4 capable E05",
        ),
        ("drives: [{serial: TR0000000002, features: [9592]}]", "not among the installed drives"),
    ],
)
def test_ve_writes_nothing_encrypted_without_the_prerequisites(
    tmp_path: Path, state: Path, lab: Path, installed: str, why: str
) -> None:
    lab.write_text(f"{lab.read_text()}\ninstallation:\n  {installed}\n")
    (tmp_path / "file").write_bytes(b"data")
    ve(lab, "write", tmp_path / "file", "--storage-group", "SECRET")
    waiting = ve_json(lab, "work", code=1)["waiting"]
    assert len(waiting) == 1
    assert why in waiting[0]
    assert "PRE-" in waiting[0]
    assert {row["state"] for row in ve_json(lab, "search")} == {"scratch"}


def test_ve_refuses_in_one_sentence(lab: Path, state: Path) -> None:
    assert "no node 'third'" in refusal(lab, "status", "--node", "third")
    assert "none of: blank, clear, encrypted" in refusal(lab, "search", "--encryption", "maybe")
    assert "no logical volume 'L00001'" in refusal(lab, "volumes", "L00001")
    assert "no physical volume 'TAP099'" in refusal(lab, "map", "TAP099")
    assert "Pool 9 is not configured; configured: 1, 2" in refusal(lab, "search", "--pool", "9")
    assert ve(lab, "search", "--pool", "2") == "no physical volume passes all filters\n"
    assert "Pool 9 is not configured" in refusal(lab, "constructs", "--storage-group", "X=9")
    assert "NAME=POOL" in refusal(lab, "constructs", "--storage-group", "X")
    for construct in ("--storage-group", "--management-class"):
        sentence = refusal(lab, "constructs", construct, "A\x1b[31mB=1")
        assert r"'A\x1b[31mB' is no name of a storage group" in sentence
    digits = "9" * 5000  # more than Python converts to an integer
    assert "NAME=POOL" in refusal(lab, "constructs", "--management-class", f"X={digits}")
    assert "mon/22:00+480" in refusal(lab, "reclaim", "inhibit", f"mon/00:00+{digits}")
    assert "mon/22:00+480" in refusal(lab, "reclaim", "inhibit", "mon/00:99+480")
    assert "encrypts, but has 0 key labels" in refusal(lab, "pools", "--set", "4", "--encrypt")
    assert "from 5 to 95" in refusal(lab, "pools", "--set", "4", "--threshold", "4")
    assert "does not encrypt" in refusal(lab, "migrate", "2", "1")
    for command in (("pools", "--set"), ("constructs", "--default-primary"), ("migrate", "1")):
        assert "no pool 9999999999999999999999;" in refusal(lab, *command, "9" * 22)
    assert "mon/22:00+480" in refusal(lab, "reclaim", "inhibit", "sometimes")
    assert "cannot be read" in refusal(lab, "write", lab.parent / "absent")
    assert "is no name of a logical volume" in refusal(lab, "write", lab, "--name", "x")


def test_ve_refuses_options_without_effect(lab: Path, state: Path) -> None:
    for option in (
        ("--encrypt",),
        ("--key", "June 2007 Key"),
        ("--hash-key", "June 2007 Key"),
        ("--no-borrow",),
        ("--keep",),
        ("--reclaim-pool", "1"),
        ("--threshold", "50"),
        ("--days-write", "0"),
        ("--max-active", "50"),
    ):
        assert "add --set POOL" in refusal(lab, "pools", *option), option
    assert "No setting of pool 3 was given" in refusal(lab, "pools", "--set", "3")
    assert "No volume was named" in refusal(lab, "recall")
    assert "No cartridge was named" in refusal(lab, "insert")
    assert "no cartridge in the range" in refusal(lab, "move", "ZZZ001-ZZZ999", "--to", "1")
    assert "--replace is for" in refusal(lab, "write", lab, "--replace")
    assert "do not go together" in refusal(lab, "clock", "--reset", "--advance", "1")


def test_ve_pools_refuses_a_key_that_no_key_manager_has(lab: Path, state: Path) -> None:
    assert rig("hsm", "init", "--lab", lab).code == 0
    before = ve(lab, "pools")
    for option in ("--key", "--hash-key"):
        sentence = refusal(lab, "pools", "--set", "2", option, "June 2008 Key")
        assert "'June 2008 Key' is neither in keks of the lab file nor in a token" in sentence
        assert "Did you mean 'June 2007 Key'?" in sentence
    assert ve(lab, "pools") == before
    assert rig("ekm", "key", "add", "June 2008 Key", "--lab", lab).code == 0
    assert "June 2008 Key" in ve(lab, "pools", "--set", "2", "--key", "June 2008 Key")
    # What a key manager knows that runs elsewhere cannot be seen here.
    elsewhere = "port: 3801\n    start: false"
    lab.write_text(lab.read_text().replace("port: 0\n    start: true", elsewhere, 1))
    assert "Key Elsewhere" in ve(lab, "pools", "--set", "2", "--key", "Key Elsewhere")


def test_ve_insert_is_refused_before_anything_is_made(lab: Path, state: Path) -> None:
    ve(lab, "status")
    folder = state / "ve" / "first" / "cartridges"
    before = sorted(folder.iterdir())
    assert "Give at most 10000" in refusal(lab, "insert", "--count", "99999999")
    assert "nothing was inserted" in refusal(lab, "insert", "NEW001", "--count", "10000")
    assert "TAP001 already" in refusal(lab, "insert", "NEW001", "TAP001")
    assert "six capital letters" in refusal(lab, "insert", "NEW001", "new")
    assert "given twice" in refusal(lab, "insert", "NEW001", "NEW001")
    assert sorted(folder.iterdir()) == before
    assert ve(lab, "insert", "NEW001", "--count", "1").split()[0] == "NEW001"


def test_ve_writes_a_volume_anew_only_with_replace(tmp_path: Path, state: Path, lab: Path) -> None:
    image = write_tape(tmp_path / "any.aws", *labelled("PAY001", "PAY.ROLL", b"payroll" * 100))
    ve(lab, "import", image)
    before = ve_json(lab, "volumes", "PAY001")
    assert "a logical volume PAY001 already" in refusal(lab, "import", image)
    assert "a logical volume PAY001 already" in refusal(lab, "write", lab, "--name", "PAY001")
    assert ve_json(lab, "volumes", "PAY001") == before
    ve(lab, "write", lab, "--name", "PAY001", "--replace")
    assert ve_json(lab, "volumes", "PAY001")[0]["size"] == lab.stat().st_size
    ve(lab, "import", image, "--replace")
    assert ve_json(lab, "volumes", "PAY001")[0]["sha256"] == before[0]["sha256"]


def test_ve_clock_is_bounded_and_goes_back(lab: Path, state: Path) -> None:
    now = ve_json(lab, "clock")["time"]
    for days in ("2920000", "36526", "-1", "nan", "inf"):
        assert "100 years" in refusal(lab, "clock", "--advance", days)
    assert ve_json(lab, "clock", "--advance", "36525")["time"][:2] == "21"
    assert "36526 days ahead" in refusal(lab, "clock", "--advance", "1")
    assert now <= ve_json(lab, "clock", "--reset")["time"] < now[:3] + "~"


def test_ve_clock_mends_a_node_that_was_set_too_far_ahead(
    tmp_path: Path, state: Path, lab: Path
) -> None:
    ve(lab, "write", lab)
    ahead = 2_920_000 * 86_400.0
    catalogue = Catalogue(state / "ve" / "first" / "catalogue.db")
    with catalogue.transaction() as session:
        settings.set_setting(session, "clock", {"offset_s": ahead})
        session.execute(update(LogicalRow).values(written=ahead, accessed=ahead))
        operator_messages.notify_hosts(session, "late", ahead)
        for hours in (5_000_000, 6_000_000):
            session.add(TrafficRow(hour=hours, pool=1, encrypted=False, bytes=3, volumes=1))
    catalogue.close()
    for command in (("status",), ("write", lab), ("volumes",), ("clock", "--advance", "1")):
        assert "rig ve clock --reset" in refusal(lab, *command)
    now = ve_json(lab, "clock", "--reset")["time"]
    assert ve_json(lab, "volumes")[0]["written"] <= now
    assert ve_json(lab, "messages")[0]["time"] <= now
    (row,) = ve_json(lab, "stats")
    assert (row["clear_volumes"], row["clear_bytes"]) == (2, 6)
    ve(lab, "write", lab)
    assert "nothing wrong" in ve(lab, "check", "--deep")


def test_ve_checks_the_nodes_of_the_lab_file(tmp_path: Path, state: Path) -> None:
    path = tmp_path / "lab.yaml"
    wrong = """
nodes:
  one: {drives: [TR0000000009]}
  two: {ekms: [nobody], storage_groups: {A: 9}, cartridges: many}
"""
    path.write_text(DEFAULT_LAB + wrong)
    assert "cartridges is 'many'; it must be a number of cartridges" in refusal(path, "status")
    path.write_text(DEFAULT_LAB + wrong.replace(", cartridges: many", ""))
    sentence = refusal(path, "status")
    for words in (
        "there is no drive 'TR0000000009'",
        "there is no key manager 'nobody'",
        "pool 9 of 'A' is not among the pools of node two",
    ):
        assert words in sentence


def test_ve_process_ends_with_one_sentence(lab: Path, state: Path) -> None:
    assert "no physical volume 'TAP099'" in rig("ve", "map", "TAP099", "--lab", lab).sentence()
