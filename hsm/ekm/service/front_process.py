"""A key manager's process, which imports while its configuration is made.

This module imports nothing that takes long, so that a command can start its key managers before its
own imports.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from hsm.ekm.lab_folder import AUDIT_FILE, lab_folder
from hsm.ekm.protocol.errors import EkmError
from hsm.files import private_directory

_LOG_BYTES: Final = 1 << 20
"""A log longer than this is begun anew with the next start."""


class FrontProcess:
    """A key manager that waits for its configuration.

    As a context, it is ended.
    """

    def __init__(self, audit: Path) -> None:
        """Start the process; its log is beside its audit log. Raises EkmError.

        The kernel kills it when the calling thread ends, so call it from the main thread.
        """
        self.log = ChildLog(audit.with_name(f"{audit.name}.messages"))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hsm.ekm.service.front", "-", "--die-with", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log.file,
            process_group=0,  # Ctrl-C comes to the parent, which stops this one
        )

    @classmethod
    def of_lab(cls, state_dir: Path, name: str) -> Self:
        """Start the key manager of a lab. Raises ProvisioningError, EkmError."""
        folder = lab_folder(state_dir, name)
        private_directory(folder)
        return cls(folder / AUDIT_FILE)

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the process if it still runs."""
        self.process.kill()
        self.process.wait()


class ChildLog:
    """The file of a child's standard error, which later children continue."""

    def __init__(self, path: Path) -> None:
        """Open the file; empty a long one."""
        self.path = path
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self.file = os.fdopen(os.open(path, flags, 0o600), "ab+")
            if self.file.tell() > _LOG_BYTES:
                self.file.truncate(0)
        except OSError as error:
            raise EkmError(
                f"The key manager did not start: its log {path} cannot be written "
                f"({error.strerror}); make its folder one that you may write."
            ) from error
        self._start = self.file.tell()

    def end(self) -> str:
        """Return the end of what this child has written, at most 4 KiB."""
        size = self.file.seek(0, os.SEEK_END)
        self.file.seek(max(self._start, size - 4096))
        return self.file.read().decode(errors="replace").strip()

    def where(self) -> str:
        """Say where the child's messages are, if there are any."""
        return (
            f"its log is {self.path}" if self.end() else f"it wrote nothing to its log {self.path}"
        )
