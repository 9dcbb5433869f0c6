"""PIN sources: environment or a file of mode 0600; PINs are never shown."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from hsm.errors import PinError, PinFileExposedError, PinFileUnreadableError, PinUnsetError
from hsm.pkcs11.pins import PinSource, ensure_pin_file


def pin_file(path: Path, content: bytes, mode: int = 0o600) -> PinSource:
    path.write_bytes(content)
    path.chmod(mode)
    return PinSource(file=path)


def test_pin_source_reads_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    source = PinSource(env="TAPERIG_TEST_PIN")
    for unset in (None, ""):
        monkeypatch.delenv("TAPERIG_TEST_PIN", raising=False)
        if unset is not None:
            monkeypatch.setenv("TAPERIG_TEST_PIN", unset)
        with pytest.raises(PinUnsetError, match="TAPERIG_TEST_PIN holds no PIN; export it"):
            source.read()
    monkeypatch.setenv("TAPERIG_TEST_PIN", "4711")
    assert source.read() == "4711"
    assert "4711" not in repr(source)


@pytest.mark.parametrize("content", [b"123456", b"123456\n", b"123456\r\n", b"123456\nmore\n"])
def test_pin_source_reads_the_first_line_of_a_file(tmp_path: Path, content: bytes) -> None:
    source = pin_file(tmp_path / "pin", content)
    assert source.read() == "123456"
    assert "123456" not in repr(source)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o620, 0o700, 0o601])
def test_pin_source_refuses_a_file_that_others_may_read(tmp_path: Path, mode: int) -> None:
    source = pin_file(tmp_path / "pin", b"123456", mode)
    with pytest.raises(
        PinFileExposedError, match=rf"mode {mode:04o}.*chmod 600 {source.file}"
    ) as e:
        source.read()
    assert "123456" not in str(e.value)


@pytest.mark.parametrize("content", [b"", b"\n", b"\n123456", b"x" * 256, "größe".encode()])
def test_pin_source_refuses_a_file_without_a_pin(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(PinFileUnreadableError, match="one line of 1 to 255 ASCII"):
        pin_file(tmp_path / "pin", content).read()


def test_pin_source_refuses_an_absent_file(tmp_path: Path) -> None:
    with pytest.raises(PinFileUnreadableError, match=r"none cannot be read: No such file"):
        PinSource(file=tmp_path / "none").read()
    with pytest.raises(PinError):
        PinSource(file=tmp_path).read()


def test_ensure_pin_file_makes_a_file_once(tmp_path: Path) -> None:
    source = ensure_pin_file(tmp_path / "pin")
    pin = source.read()
    assert len(pin) == 16
    assert pin.isdigit()
    assert stat.S_IMODE((tmp_path / "pin").stat().st_mode) == 0o600
    assert ensure_pin_file(tmp_path / "pin").read() == pin
    assert ensure_pin_file(tmp_path / "other").read() != pin


def test_ensure_pin_file_survives_an_interruption(tmp_path: Path) -> None:
    partial = tmp_path / "pin.partial"
    partial.write_text("12")
    assert len(ensure_pin_file(tmp_path / "pin").read()) == 16
    assert not partial.exists()
