"""The drive's secure element: a process that owns the drive's token.

It holds three keys that never leave: the drive's identity (P-256, signs the key exchange), the RSA
key that data keys for this drive are wrapped to (SEDK), and the transport key that it shares with
the engine's gates. `rewrap_for_engine` turns an SEDK into the 40-byte blob (RFC 3394, AES-256) that
the engine loads; the data key itself stays in the token.

The drive talks to the process over a socket pair: a length of 4 bytes, big endian, and that many
bytes of CBOR, at most 64 KiB. The process ends when the drive's end closes, so it dies with it.
"""

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import cbor2
from pydantic import Field

from hsm.child_process import wait_for_end
from hsm.configuration.part import LocalPath, Part
from hsm.errors import TaperigError
from hsm.framing import FrameError, frame, read_frame
from hsm.pkcs11.config import TokenConfig
from hsm.pkcs11.oaep import OaepHash
from hsm.pkcs11.softhsm import drive_token_label, token_config
from hsm.provisioning import ProvisionedDrive, check_serial, provision_drive
from rig.engine.driver import SEALED_KEY_BYTES

__all__ = [
    "SecureElement",
    "SecureElementConfig",
    "SecureElementError",
    "SecureElementGoneError",
    "SedkError",
    "provision_drive",
]

MAX_MESSAGE_BYTES: Final = 64 * 1024
ANSWER_TIMEOUT_S: Final = 30.0
_STOP_TIMEOUT_S: Final = 5.0


class SecureElementError(TaperigError):
    """The secure element refused, or could not start."""


class SecureElementGoneError(SecureElementError):
    """The secure element's process ended or stopped answering."""


class SedkError(SecureElementError):
    """The SEDK is damaged or was wrapped for another drive."""


class SecureElementConfig(Part):
    """A drive's serial number, its token and its identity certificate."""

    serial: str = Field(description="the serial number of the drive")
    token: TokenConfig = Field(description="the token of the secure element")
    certificate: LocalPath = Field(description="the path of the drive's certificate")

    @staticmethod
    def of(drive: ProvisionedDrive) -> "SecureElementConfig":
        """Return the configuration of a drive that was provisioned."""
        return SecureElementConfig(
            serial=drive.serial, token=drive.token, certificate=drive.certificate
        )

    @staticmethod
    def under(state_dir: Path, serial: str) -> "SecureElementConfig":
        """Return the configuration of a drive provisioned under `state_dir`."""
        check_serial(serial)
        return SecureElementConfig(
            serial=serial,
            token=token_config(state_dir, drive_token_label(serial)),
            certificate=state_dir / "pki" / f"drive-{serial}.pem",
        )


class SecureElement:
    """A running secure element; one thread uses it, as a context."""

    def __init__(self, process: subprocess.Popen[bytes], link: socket.socket, serial: str) -> None:
        """Take a process that `spawn` started."""
        self._process = process
        self._link = link
        self.serial = serial
        self.certificate_der = b""
        """The drive's identity certificate (P-256), issued by the lab CA."""
        self.wrap_public_der = b""
        """The RSA key that SEDKs are wrapped to: SubjectPublicKeyInfo, DER."""
        self.oaep_hash = OaepHash.SHA1
        """The OAEP hash that SEDKs for this drive must use."""

    @staticmethod
    def start(config: SecureElementConfig) -> "SecureElement":
        """Start the process and wait until its token is open.

        Raises SecureElementError with the token's own words (wrong PIN, absent token, ...).
        """
        element = SecureElement.spawn(config)
        try:
            element.await_open()
        except BaseException:
            element.close()
            raise
        return element

    @staticmethod
    def spawn(config: SecureElementConfig) -> "SecureElement":
        """Start the process; call ``await_open`` before any use."""
        ours, theirs = socket.socketpair()
        with theirs:
            ours.settimeout(ANSWER_TIMEOUT_S)
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "rig.drive.secure_element_process",
                    str(theirs.fileno()),
                ],
                pass_fds=(theirs.fileno(),),
                process_group=0,  # Ctrl-C comes to the parent, which stops this one
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        element = SecureElement(process, ours, config.serial)
        try:
            element._send(encode_config(config))
        except BaseException:
            element.close()
            raise
        return element

    def await_open(self) -> None:
        """Wait until the token is open; raises as ``start`` does."""
        ready = self._receive()
        self.certificate_der = ready["certificate"]
        self.wrap_public_der = ready["wrap_public"]
        self.oaep_hash = OaepHash(ready["oaep_hash"])

    @property
    def pid(self) -> int:
        """Process id of the secure element."""
        return self._process.pid

    def sign(self, data: bytes) -> bytes:
        """Return the drive's ECDSA P-256 signature over SHA-256 of `data`, DER."""
        answer = self._ask({"do": "sign", "data": data})
        signature: bytes = answer["signature"]
        return signature

    def rewrap_for_engine(self, sedk: bytes) -> bytes:
        """Rewrap the data key of an SEDK under the transport key.

        Returns 40 bytes (RFC 3394). Raises SedkError when the SEDK is damaged, not for this drive
        or no AES-256 key.
        """
        answer = self._ask({"do": "rewrap", "sedk": sedk})
        sealed: bytes = answer["sealed"]
        if len(sealed) != SEALED_KEY_BYTES:
            raise SecureElementError(
                f"The secure element of drive {self.serial} gave {len(sealed)} bytes for a sealed "
                f"key of {SEALED_KEY_BYTES}."
            )
        return sealed

    def close(self) -> None:
        """End the process; a second call does nothing."""
        self._link.close()
        if wait_for_end(self._process, _STOP_TIMEOUT_S) is None:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the process."""
        self.close()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        self._send(request)
        return self._receive()

    def _send(self, request: dict[str, Any]) -> None:
        with self._ended_by_failure():
            send_message(self._link, request)

    def _receive(self) -> dict[str, Any]:
        with self._ended_by_failure():
            answer = receive_message(self._link)
        if answer is None:
            wait_for_end(self._process, 1.0)
            raise self._gone(f"its process ended with code {self._process.returncode}")
        if "error" in answer:
            kind = SedkError if answer["error"] == "sedk" else SecureElementError
            raise kind(f"Secure element of drive {self.serial}: {answer['text']}")
        return answer

    @contextlib.contextmanager
    def _ended_by_failure(self) -> Iterator[None]:
        """End the process when the link fails.

        A late answer would be taken for the answer to the next request.
        """
        try:
            yield
        except OSError as error:
            self._process.kill()
            self.close()
            raise self._gone(str(error)) from None

    def _gone(self, why: str) -> SecureElementGoneError:
        return SecureElementGoneError(
            f"The secure element of drive {self.serial} does not answer: {why}."
        )


def send_message(link: socket.socket, message: dict[str, Any]) -> None:
    """Send one framed CBOR message.

    Raises OSError, or SecureElementError when it is too long.
    """
    body = cbor2.dumps(message)
    try:
        framed = frame(body, MAX_MESSAGE_BYTES)
    except FrameError:
        raise SecureElementError(
            f"A message to a secure element has at most {MAX_MESSAGE_BYTES} bytes; this has "
            f"{len(body)}."
        ) from None
    link.sendall(framed)


def receive_message(link: socket.socket) -> dict[str, Any] | None:
    """Return the next message, None when the link closed; raises OSError."""
    try:
        body = read_frame(link.recv, MAX_MESSAGE_BYTES)
        message = None if body is None else cbor2.loads(body)
    except FrameError as error:
        raise OSError(str(error)) from None
    except cbor2.CBORDecodeError:
        raise OSError("a message is not CBOR") from None
    if message is not None and not isinstance(message, dict):
        raise OSError("a message is not a map")
    return message


def encode_config(config: SecureElementConfig) -> dict[str, Any]:
    """Return the first message: the configuration, without any PIN."""
    token = config.token.replace(so_pin=None)  # a secure element enrols no keys
    return {"do": "start", "config": config.replace(token=token).model_dump_json()}


def decode_config(message: dict[str, Any]) -> SecureElementConfig:
    """Return the configuration in the first message."""
    return SecureElementConfig.model_validate_json(message["config"])
