"""Files of others: no more of them is read than they may have."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hsm import files
from hsm.ekm.admin.administrator import AdministrationError, read_wrap_key
from hsm.ekm.audit.hash_chain import MAX_LINE, AuditError
from hsm.ekm.audit.log import AuditLog, verify
from hsm.errors import PinFileUnreadableError, PkiError, TaperigError
from hsm.files import read_limited
from hsm.keys.pki import load_certificate, load_p256_key
from hsm.pkcs11.pins import PinSource


def test_read_limited_reads_no_more_than_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100)
    assert read_limited(path, 100) == b"x" * 100
    with pytest.raises(OSError, match="it has more than 99 bytes") as caught:
        read_limited(path, 99)
    assert caught.value.errno == errno.EFBIG
    with pytest.raises(OSError, match="it has more than 10 bytes"):
        read_limited(Path("/dev/zero"), 10)


READERS = pytest.mark.parametrize(
    ("read", "error"),
    [
        (load_certificate, PkiError),
        (load_p256_key, PkiError),
        (read_wrap_key, AdministrationError),
        (lambda path: PinSource(file=path).read(), PinFileUnreadableError),
    ],
    ids=["certificate", "key", "wrapping key", "PIN"],
)


@READERS
def test_file_without_an_end_is_refused_by_every_reader(
    tmp_path: Path,
    read: Callable[[Path], object],
    error: type[TaperigError],
) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # sparse: it would fill any memory
    path.chmod(0o600)
    with pytest.raises(error, match=str(path)):
        read(path)


@READERS
def test_pipe_that_nobody_writes_to_is_refused_by_every_reader(
    tmp_path: Path,
    read: Callable[[Path], object],
    error: type[TaperigError],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(files, "PIPE_SECONDS", 0.2)
    path = tmp_path / "pipe"
    os.mkfifo(path, 0o600)
    with pytest.raises(error, match=rf"{path}.* gave nothing for 0.2 s"):
        read(path)


def test_read_limited_reads_a_pipe_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    content = b"x" * 200_000  # more than a pipe holds
    writer = threading.Thread(target=path.write_bytes, args=(content,))
    writer.start()
    assert read_limited(path, len(content)) == content
    writer.join()


@pytest.mark.parametrize("line", [b"[" * 3000, b"x" * (MAX_LINE + 1), b'{"a": ' + b"9" * 5000])
@pytest.mark.parametrize("end", [b"\n", b""])
def test_audit_log_line_that_is_no_record_is_found(tmp_path: Path, line: bytes, end: bytes) -> None:
    path = tmp_path / "audit.jsonl"
    with AuditLog(path) as log:
        log.append("start")
    begun = time.monotonic()
    path.write_bytes(path.read_bytes() + line + end)
    if end or len(line) > MAX_LINE:
        with pytest.raises(AuditError, match="was altered: line 2"):
            verify(path)
    else:
        assert verify(path).records == 1, "a torn last line is left out"
    assert time.monotonic() - begun < 5
