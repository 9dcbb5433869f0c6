"""Provisioning: complete, private, repeatable after any interruption."""

from __future__ import annotations

import os
import random
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from pkcs11 import TokenFlag

from hsm.errors import (
    LabelInvalidError,
    ModuleAbsentError,
    ProvisioningError,
    TaperigError,
    TokenBusyError,
    TokenRefusedError,
)
from hsm.keys.data_keys import DataKeys
from hsm.keys.eedk import KeyLabel
from hsm.keys.keystore import Keystore
from hsm.keys.pki import CertificateAuthority, load_certificate
from hsm.pkcs11.module import Module
from hsm.pkcs11.pins import PinSource, ensure_pin_file
from hsm.pkcs11.softhsm import (
    CONFIGURATION_FILE,
    find_module,
    token_config,
    write_configuration,
)
from hsm.pkcs11.softhsm_token import _init_token, ensure_token
from hsm.pkcs11.token import open_token
from hsm.provisioning import (
    ProvisionedLab,
    import_certificates,
    one_token_plan,
    provision_drive,
)
from tests.support.ekm_lab import SoftKek, der
from tests.support.provisioned import provision_lab, softhsm_token

SERIAL = "DRIVE-7"


def contents(state_dir: Path) -> dict[str, bytes]:
    """Return files that repetition must not change.

    SoftHSM writes the others, and provisioning its record of the plan.
    """
    return {
        str(path.relative_to(state_dir)): path.read_bytes()
        for path in state_dir.rglob("*")
        if path.is_file() and path.name not in {"generation", "token.object", "provisioned.json"}
    }


def works(lab: ProvisionedLab) -> bool:
    """Make a data key and wrap it for every KEK and drive."""
    with open_token(lab.ekm_token) as token:
        keystore = Keystore(token)
        data_keys = DataKeys(keystore)
        with data_keys.generate() as data_key:
            for kek in keystore.list():
                eedk, _ = data_keys.make_pair(data_key, [KeyLabel(kek.label)], "VOL001")
                data_keys.open_eedk(eedk, "VOL001").destroy()
            for drive in lab.drives:
                data_keys.wrap_for_drive(data_key, drive.wrap_public_der)
    return True


def test_import_certificates_brings_public_only_keks_and_may_be_repeated(tmp_path: Path) -> None:
    lab = provision_lab(tmp_path, ["KEK A"], [])
    kek = SoftKek.make("KEK OF A PARTNER")
    for _ in range(2):
        import_certificates(lab, {"KEK B": der(kek.certificate)})
    with open_token(lab.ekm_token) as token:
        found = {each.label: (each.has_private, each.bits) for each in Keystore(token).list()}
        assert Keystore(token).find("KEK B").certificate == kek.certificate
    assert found == {"KEK A": (True, 2048), "KEK B": (False, 2048)}
    with pytest.raises(ProvisioningError, match="has this public key already"):
        import_certificates(lab, {"KEK C": der(kek.certificate)})


def test_provisioning_creates_keys_tokens_and_certificates(tmp_path: Path) -> None:
    steps: list[str] = []
    state_dir = tmp_path / "not" / "there yet"
    lab = provision_lab(state_dir, ["KEK A"], [SERIAL], progress=steps.append)
    assert "key KEK A" in steps
    assert f"secure element of drive {SERIAL}" in steps
    assert works(lab)
    drive = lab.drive(SERIAL)
    key = drive.transport_key.read_text()
    assert len(key) == 65
    assert key == key.lower()
    assert len(bytes.fromhex(key)) == 32
    assert drive.certificate_der
    with pytest.raises(ProvisioningError, match="NO-DRIVE is not provisioned"):
        lab.drive("NO-DRIVE")


def test_provisioning_keeps_all_files_private(lab_state: ProvisionedLab) -> None:
    for path in (lab_state.state_dir, *lab_state.state_dir.rglob("*")):
        expected = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


def test_provisioning_changes_nothing_when_repeated(tmp_path: Path) -> None:
    first = provision_lab(tmp_path / "lab", ["KEK A"], [SERIAL])
    before = contents(tmp_path / "lab")
    assert provision_lab(tmp_path / "lab", ["kek a"], [SERIAL]) == first
    after = contents(tmp_path / "lab")
    assert [
        path for path in before.keys() | after.keys() if before.get(path) != after.get(path)
    ] == []


def test_provisioning_adds_keys_and_drives_later(tmp_path: Path) -> None:
    first = provision_lab(tmp_path / "lab", ["KEK A"], [])
    before = contents(tmp_path / "lab")
    drive = provision_drive(tmp_path / "lab", SERIAL)
    lab = provision_lab(tmp_path / "lab", ["KEK B"], [SERIAL])
    assert lab.drive(SERIAL) == drive
    assert lab.ekm_token == first.ekm_token
    assert before.items() <= contents(tmp_path / "lab").items()
    with open_token(lab.ekm_token) as token:
        assert [kek.label for kek in Keystore(token).list()] == ["KEK A", "KEK B"]


@pytest.mark.parametrize("steps", range(1, 6))
def test_provisioning_completes_after_an_interruption_at_any_step(
    tmp_path: Path, steps: int
) -> None:
    plan = one_token_plan(tmp_path / "lab", ["KEK A"], [SERIAL], hosts=["localhost"])
    with subprocess.Popen(
        [sys.executable, "-m", "hsm.provisioner"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdin
        assert child.stdout
        child.stdin.write(plan.model_dump_json().encode())
        child.stdin.close()
        for _ in range(steps):
            assert b"step" in child.stdout.readline()
        time.sleep(random.random() / 10)
        child.kill()
    lab = provision_lab(tmp_path / "lab", ["KEK A"], [SERIAL])
    assert works(lab)
    with open_token(lab.ekm_token) as token:
        assert [kek.label for kek in Keystore(token).list()] == ["KEK A"]


def test_provisioning_may_run_twice_at_once(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from tests.support.provisioned import provision_lab;"
        f"provision_lab(Path(sys.argv[1]), ['KEK A'], ['{SERIAL}'])"
    )
    runs = [subprocess.Popen([sys.executable, "-c", script, tmp_path / "lab"]) for _ in range(2)]
    assert [run.wait(timeout=60) for run in runs] == [0, 0]
    assert works(provision_lab(tmp_path / "lab", ["KEK A"], [SERIAL]))
    with open_token(provision_lab(tmp_path / "lab", [], []).ekm_token) as token:
        assert len(Keystore(token).list()) == 1


def test_provisioning_writes_only_in_the_state_folder(tmp_path: Path) -> None:
    """Every file opened for writing is in the state folder."""
    script = (
        "import os, sys; from pathlib import Path\n"
        "def watch(event, args):\n"
        "    if event == 'open' and isinstance(args[0], (str, bytes)) and args[2] & 3:\n"
        "        print('WROTE', os.fsdecode(args[0]), file=sys.stderr)\n"
        "sys.addaudithook(watch)\n"
        "import hsm.provisioner; sys.exit(hsm.provisioner.main())"
    )
    plan = one_token_plan(tmp_path / "lab", ["KEK A"], hosts=[])
    before = _softhsm_of_the_system()
    run = subprocess.run(
        [sys.executable, "-B", "-c", script],
        input=plan.model_dump_json(),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "SOFTHSM2_CONF": "/etc/softhsm/softhsm2.conf"},
    )
    written = [line.split(" ", 1)[1] for line in run.stderr.splitlines() if "WROTE" in line]
    assert written
    assert all(path.startswith(str(tmp_path / "lab")) for path in written)
    assert any((tmp_path / "lab" / "tokens").iterdir())
    assert _softhsm_of_the_system() == before


def _softhsm_of_the_system() -> list[str]:
    return sorted(str(path) for path in Path("/var/lib/softhsm").rglob("*"))


@pytest.mark.parametrize("serial", ["", "with space", "x" * 19, "../../x", "a/b", "größe"])
def test_provisioning_refuses_invalid_serials(tmp_path: Path, serial: str) -> None:
    with pytest.raises(ProvisioningError, match="1 to 18 letters, digits and hyphens"):
        provision_lab(tmp_path / "lab", [], [serial])
    assert not (tmp_path / "lab").exists()


def test_provisioning_refuses_invalid_labels(tmp_path: Path) -> None:
    with pytest.raises(LabelInvalidError):
        provision_lab(tmp_path / "lab", ["good", "x" * 65], [])
    assert not (tmp_path / "lab").exists()


def test_provisioning_reports_a_state_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ProvisioningError, match=r"file/lab cannot be made ready: Not a directory"):
        provision_lab(tmp_path / "file" / "lab", [], [])


def test_provisioning_reports_lost_pins(tmp_path: Path) -> None:
    lab = provision_lab(tmp_path / "lab", [], [])
    (tmp_path / "lab" / "pins" / "taperig-ekm").unlink()
    with pytest.raises(ProvisioningError, match="taperig-ekm refused the user's PIN"):
        provision_lab(tmp_path / "lab", [], [])
    assert lab.ekm_token.label == "taperig-ekm"


def test_provisioning_renews_the_key_of_a_lost_transport_file(tmp_path: Path) -> None:
    drive = provision_drive(tmp_path / "lab", SERIAL)
    old = drive.transport_key.read_text()
    drive.transport_key.unlink()
    new = provision_drive(tmp_path / "lab", SERIAL).transport_key.read_text()
    assert new != old


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("00" * 32 + "\n", "is not the one in the drive's token"),
        ("00" * 31 + "\n", "should hold 64 hexadecimal digits"),
        ("", "should hold 64 hexadecimal digits"),
        ("ä" * 64, "should hold 64 hexadecimal digits"),
    ],
)
def test_provisioning_reports_a_changed_transport_file(
    lab_state: ProvisionedLab, content: str, text: str
) -> None:
    drive = lab_state.drives[0]
    kept = drive.transport_key.read_text()
    drive.transport_key.write_text(content)
    try:
        with pytest.raises(ProvisioningError, match=text):
            provision_drive(lab_state.state_dir, drive.serial)
    finally:
        drive.transport_key.write_text(kept)
    assert provision_drive(lab_state.state_dir, drive.serial) == drive


def test_provisioning_renews_the_certificate_for_new_hosts(tmp_path: Path) -> None:
    lab = provision_lab(tmp_path / "lab", [], [])
    first = lab.ekm_tls.certificate.read_bytes()
    provision_lab(tmp_path / "lab", [], [], hosts=["localhost"])
    assert lab.ekm_tls.certificate.read_bytes() == first
    provision_lab(tmp_path / "lab", [], [], hosts=["ekm.example", "192.0.2.7"])
    assert lab.ekm_tls.certificate.read_bytes() != first


def test_provisioning_reports_a_foreign_ca_key(tmp_path: Path) -> None:
    lab = provision_lab(tmp_path / "lab", [], [])
    other = CertificateAuthority(tmp_path / "other")
    (lab.ca.parent / "ca.key").write_bytes((other.certificate_path.parent / "ca.key").read_bytes())
    with pytest.raises(ProvisioningError, match="is not that of"):
        provision_lab(tmp_path / "lab", [], [])


def test_softhsm_that_is_absent_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAPERIG_SOFTHSM", str(tmp_path / "libsofthsm2.so"))
    with pytest.raises(ModuleAbsentError, match=r"install the Debian package softhsm2 or set TAPE"):
        find_module()
    monkeypatch.delenv("TAPERIG_SOFTHSM")
    monkeypatch.setattr("hsm.pkcs11.softhsm._MODULES", (tmp_path / "x.so",))
    with pytest.raises(ModuleAbsentError, match="not in the usual places"):
        find_module()


def test_softhsm_token_is_made_again_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SoftHSM cannot read the incomplete token, so it is in another folder."""

    def interrupt(*_: object) -> None:
        (made,) = (tmp_path / "lab" / "tokens.new").iterdir()
        os.truncate(made / "token.object", 8)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("hsm.pkcs11.softhsm_token._init_user_pin", interrupt)
        with pytest.raises(KeyboardInterrupt):
            softhsm_token(tmp_path / "lab")
    open_token(softhsm_token(tmp_path / "lab")).close()
    assert len(list((tmp_path / "lab" / "tokens").iterdir())) == 1
    assert not list((tmp_path / "lab").glob("*new*"))


def test_softhsm_token_without_a_user_pin_is_completed(tmp_path: Path) -> None:
    write_configuration(tmp_path / "lab")
    ensure_pin_file(tmp_path / "lab" / "pins" / "taperig-ekm")
    so_pin = ensure_pin_file(tmp_path / "lab" / "pins" / "taperig-ekm.so").read()
    config = token_config(tmp_path / "lab", "taperig-ekm")
    with Module(config) as module:
        _init_token(module, "taperig-ekm", so_pin, tmp_path / "lab" / CONFIGURATION_FILE)
    with pytest.raises(TokenRefusedError, match="has no user PIN yet; run `rig hsm init`"):
        open_token(token_config(tmp_path / "lab", "taperig-ekm"))
    open_token(softhsm_token(tmp_path / "lab")).close()
    assert len(list((tmp_path / "lab" / "tokens").iterdir())) == 1


def test_softhsm_token_that_seems_to_have_no_pin_keeps_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So SoftHSM says now and then, while another process writes the token."""
    config = softhsm_token(tmp_path / "lab")
    find, looks = Module.find_token, []

    def find_late(module: Module, label: str) -> object:
        looks.append(label)
        return find(module, label) if len(looks) > 1 else SimpleNamespace(flags=TokenFlag(0))

    with monkeypatch.context() as patch:
        patch.setattr(Module, "find_token", find_late)
        patch.setattr("hsm.pkcs11.softhsm_token._init_user_pin", None)  # not called
        assert ensure_token(tmp_path / "lab", config.label) == config
    assert len(looks) == 2
    open_token(config).close()


_LIMITED = """
import resource, sys
from pathlib import Path
from hsm.errors import ProvisioningError
from hsm.pkcs11.softhsm_token import ensure_token
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), -1))
try:
    ensure_token(Path(sys.argv[1]), "taperig-ekm")
except ProvisioningError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("limit", "what"),
    [
        (10, "The file {lab}/pins/taperig-ekm cannot be written: File too large"),
        (100, "The file {lab}/softhsm2.new.conf cannot be written: File too large"),
        (250, "could not make the token taperig-ekm: its folder {lab}/tokens.new cannot be writ"),
        (300, "could not make the token taperig-ekm: its folder {lab}/tokens.new cannot be writ"),
    ],
)
def test_softhsm_token_that_finds_no_room_is_reported_and_made_later(
    tmp_path: Path, limit: int, what: str
) -> None:
    """At 250 bytes SoftHSM reports no error, and then opens no token."""
    lab = tmp_path / "lab"
    write_configuration(lab)
    ended = subprocess.run(
        [sys.executable, "-c", _LIMITED, str(lab), str(limit)], stdout=subprocess.PIPE, text=True
    )
    assert what.format(lab=lab) in ended.stdout
    assert "ulimit -f" in ended.stdout
    open_token(softhsm_token(lab)).close()


_LOGIN_LIMITED = """
import resource, sys
from pathlib import Path
from hsm.errors import TokenError
from hsm.pkcs11.softhsm import token_config
from hsm.pkcs11.token import open_token
from hsm.validate.run import validate
from hsm.validate.session import Pins
config = token_config(Path(sys.argv[1]), "taperig-ekm")
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), -1))
for use in (
    lambda: open_token(config).close(),
    lambda: validate(
        config.module, config.label, Pins("1234", None), softhsm_conf=config.softhsm_conf
    ),
):
    try:
        use()
    except TokenError as error:
        print(error)
"""


@pytest.mark.parametrize("limit", [100, 300, 1000])
def test_softhsm_token_survives_a_login_under_a_limit_of_file_sizes(
    tmp_path: Path, limit: int
) -> None:
    """SoftHSM would cut the token's file to the limit, and then find no token."""
    lab = tmp_path / "lab"
    open_token(softhsm_token(lab)).close()
    ended = subprocess.run(
        [sys.executable, "-c", _LOGIN_LIMITED, str(lab), str(limit)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert ended.stdout.count(f"files of {limit} bytes at most") == 2
    assert ended.stdout.count("ulimit -f") == 2
    open_token(token_config(lab, "taperig-ekm")).close()


def test_softhsm_token_that_is_damaged_is_not_replaced(tmp_path: Path) -> None:
    lab = tmp_path / "lab"
    open_token(softhsm_token(lab)).close()
    (file,) = (lab / "tokens").glob("*/token.object")
    whole = file.read_bytes()
    file.write_bytes(whole[:300])
    with pytest.raises(ProvisioningError, match=r"token taperig-ekm was not made.*a backup") as why:
        softhsm_token(lab)
    assert str(file) in str(why.value)
    assert len(list((lab / "tokens").iterdir())) == 1
    file.write_bytes(whole)
    open_token(softhsm_token(lab)).close()


_SMALL_DISK = """
mount -t tmpfs -o size=$2k tmpfs $1
$3 -m tests.support.provision_worker $1/lab; echo "ended $?"
mount -o remount,size=4m $1
$3 -m tests.support.provision_worker $1/lab; echo "ended $?"
"""


@pytest.mark.skipif(
    subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode != 0,
    reason="no file system can be mounted here",
)
@pytest.mark.parametrize("size", [32, 48, 64, 80])
def test_provisioning_on_a_full_disk_names_it_and_completes_later(
    tmp_path: Path, size: int
) -> None:
    ended = subprocess.run(
        ["unshare", "-rm", "sh", "-c", _SMALL_DISK, "sh", tmp_path, str(size), sys.executable],
        capture_output=True,
        text=True,
    )
    words, first, second = ended.stdout.splitlines()
    assert (first, second) == ("ended 2", "ended 0"), ended
    assert str(tmp_path) in words
    assert "cannot be written" in words
    assert "No space left on device; free some space" in words


@pytest.mark.parametrize(("one", "other"), [("a", "a.so"), ("a", "a.partial"), ("%a", "%a.so")])
def test_softhsm_tokens_of_similar_labels_have_their_own_pins(
    tmp_path: Path, one: str, other: str
) -> None:
    write_configuration(tmp_path)
    configs = [ensure_token(tmp_path, label) for label in (other, one, "ekm-admin", "%ekm-admin")]
    files = [source.file for config in configs for source in (config.pin, config.so_pin) if source]
    assert len(set(files)) == 8
    assert tmp_path / "pins" / "ekm-admin" not in files, "that is the admin secret"
    assert len({file.read_bytes() for file in files if file}) == 8
    for config in configs:
        open_token(config).close()


@pytest.mark.parametrize("label", ["a.so", "100%"])
def test_softhsm_token_of_an_earlier_version_keeps_its_pin_files(
    tmp_path: Path, label: str
) -> None:
    """Their names were the label itself, and the label with .so."""
    write_configuration(tmp_path)
    new = ensure_token(tmp_path, label)
    for source, name in ((new.pin, label), (new.so_pin, f"{label}.so")):
        assert source is not None
        assert source.file is not None
        source.file.rename(tmp_path / "pins" / name)
    old = ensure_token(tmp_path, label)
    assert old.pin == PinSource(file=tmp_path / "pins" / label)
    open_token(old).close()
    other = ensure_token(tmp_path, "a")
    open_token(other).close()
    open_token(token_config(tmp_path, label)).close()


def test_softhsm_token_is_alone_in_its_process(tmp_path: Path) -> None:
    config = softhsm_token(tmp_path / "lab")
    with open_token(config) as token:
        assert token.label == "taperig-ekm"
        with pytest.raises(TokenBusyError):
            ensure_token(tmp_path / "lab", "another")
    for label in ("", "x" * 33, "a\nb"):
        with pytest.raises(TaperigError, match="1 to 32 printable bytes"):
            ensure_token(tmp_path / "lab", label)
        with pytest.raises(ProvisioningError, match="1 to 32 printable bytes"):
            token_config(tmp_path / "lab", label)


@pytest.mark.usefixtures("interruptible")
def test_provisioning_ends_its_child_on_ctrl_c(tmp_path: Path) -> None:
    """The process group is interrupted, as by a terminal."""
    script = (
        "import sys; from pathlib import Path\n"
        "from tests.support.provisioned import provision_lab\n"
        "def show(step):\n"
        "    if step == 'key A': print(step, flush=True)\n"
        "try:\n"
        "    provision_lab(Path(sys.argv[1]), list('ABCDEFGH'), [], kek_bits=4096, progress=show)\n"
        "except KeyboardInterrupt:\n"
        "    sys.exit(77)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, tmp_path / "lab"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as run:
        assert run.stdout
        assert run.stdout.readline() == "key A\n"
        os.killpg(run.pid, signal.SIGINT)
        _, stderr = run.communicate(timeout=60)
    assert run.returncode == 77
    assert "Traceback" not in stderr


def test_provisioning_issues_certificates_for_the_tokens_keys(lab_state: ProvisionedLab) -> None:
    with open_token(lab_state.ekm_token) as token:
        ekm_key = token.p256_public_key("taperig ekm signing")
    assert load_certificate(lab_state.ekm_certificate).public_key() == ekm_key
    drive = lab_state.drives[0]
    with open_token(drive.token) as token:
        drive_key = token.p256_public_key("taperig drive identity")
    assert isinstance(drive_key.curve, ec.SECP256R1)
    assert load_certificate(drive.certificate).public_key() == drive_key


@pytest.mark.parametrize("request_of", ["make", "change"])
def test_provisioning_ends_without_a_word_when_its_parent_is_gone(request_of: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "hsm.provisioner", request_of],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, b"", b"")


def test_provision_again_does_nothing_while_nothing_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "lab"
    first = provision_lab(state, ["KEK A"], [SERIAL])
    steps: list[str] = []
    assert provision_lab(state, ["KEK A"], [SERIAL], progress=steps.append) == first
    assert steps == []
    for change in (
        lambda: (state / "pki" / "rig-tls.pem").unlink(),
        lambda: (state / "provisioned.json").write_text("{"),
        lambda: os.utime(state / "provisioned.json", (0, 0)),
    ):
        change()
        steps.clear()
        lab = provision_lab(state, ["KEK A"], [SERIAL], progress=steps.append)
        assert steps, "it was provisioned again"
        assert works(lab)
    with open_token(first.ekm_token) as token:
        keystore = Keystore(token)
        keystore.remove_kek(keystore.find("KEK A"))
    assert works(provision_lab(state, ["KEK A"], [SERIAL]))
