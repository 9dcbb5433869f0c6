"""The way from an administrator to a running key manager: a Unix socket and the admin secret.

A request and its answer are JSON objects, each after its length in four bytes (big endian):

    {"secret": ..., "command": "drive revoke", "arguments": {"serial": ...}}
    {"result": ...}    or    {"error": "one sentence"}

One request a connection; it is size-capped and time-capped. The secret is checked by scrypt, one
request after the other, and a wrong one costs its sender a second: guessing is hopeless.
"""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from hsm.admin_secret import AdminSecretError, secret_matches
from hsm.ekm.audit.log import AuditLog
from hsm.ekm.config import EkmConfig
from hsm.ekm.logs import LOG
from hsm.ekm.protocol.errors import EkmError
from hsm.errors import TaperigError
from hsm.framing import LENGTH_BYTES, FrameError, frame, frame_length, read_frame

if TYPE_CHECKING:
    from hsm.ekm.admin.commands import Administration

REQUEST_LIMIT = 64 * 1024
ANSWER_LIMIT = 64 * 1024 * 1024
REQUEST_SECONDS = 10.0
ANSWER_SECONDS = 600.0
WRONG_SECRET_SECONDS = 1.0
_AT_ONCE = 16


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """Give a socket path a name that fits: the kernel takes 107 bytes."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


class AdminServer:
    """Listens for administrators while the key manager serves."""

    def __init__(self, config: EkmConfig) -> None:
        """Prepare; a context manager listens."""
        self._config = config
        # A writer of its own, since commands run beside the event loop.
        self._log = AuditLog(config.audit, joined=True)
        self._made: Administration | None = None
        self._turn = asyncio.Lock()
        self._open = 0
        self._server: asyncio.Server | None = None

    @property
    def _administration(self) -> Administration:
        """Made when first needed, since it takes its time to import."""
        if self._made is None:
            from hsm.ekm.admin.commands import Administration

            self._made = Administration(self._config, self._log)
        return self._made

    async def __aenter__(self) -> Self:
        """Listen, in place of a socket that a killed key manager left behind."""
        if self._config.admin_secret is None:
            return self
        path = self._config.admin_path
        try:
            with _short(path) as name:
                with suppress(FileNotFoundError):
                    path.unlink()
                listener = socket.socket(socket.AF_UNIX)
                before = os.umask(0o117)
                try:
                    listener.bind(name)
                    listener.listen()
                except OSError:
                    listener.close()
                    raise
                finally:
                    os.umask(before)
        except OSError as error:
            raise EkmError(
                f"The key manager cannot listen for administrators at {path} ({error.strerror})."
            ) from error
        self._server = await asyncio.start_unix_server(self._serve, sock=listener)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop listening."""
        self._log.close()
        if self._server is not None:
            self._server.close()
            with suppress(OSError):
                self._config.admin_path.unlink()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open > _AT_ONCE:
                return
            async with asyncio.timeout(REQUEST_SECONDS):
                header = await reader.readexactly(LENGTH_BYTES)
                request = await reader.readexactly(frame_length(header, REQUEST_LIMIT))
            answer = await self._answer(request, _who(writer.get_extra_info("socket")))
            data = json.dumps(answer).encode()
            writer.write(frame(data, ANSWER_LIMIT))
            async with asyncio.timeout(REQUEST_SECONDS):
                await writer.drain()
        except (OSError, EOFError, TimeoutError, FrameError):
            pass
        finally:
            self._open -= 1
            writer.close()

    async def _answer(self, data: bytes, who: str) -> dict[str, Any]:
        try:
            secret, command, arguments = _parsed(data)
            async with self._turn:
                await self._admit(secret, who)
                result = await asyncio.to_thread(self._administration.run, command, arguments, who)
            LOG.info("administration", command=command, who=who)
            return {"result": result}
        except TaperigError as error:
            LOG.warning("administration refused", who=who, cause=str(error))
            return {"error": str(error)}
        except Exception as error:
            LOG.error("administration failed in an unforeseen way", kind=type(error).__name__)
            return {
                "error": f"The key manager failed in an unforeseen way ({type(error).__name__})."
            }

    async def _admit(self, secret: str, who: str) -> None:
        assert self._config.admin_secret is not None
        if not await asyncio.to_thread(secret_matches, self._config.admin_secret, secret):
            self._administration.refused(who)
            await asyncio.sleep(WRONG_SECRET_SECONDS)
            raise _wrong_secret()


def _wrong_secret() -> AdminSecretError:
    return AdminSecretError(
        "The admin secret is wrong; correct the environment variable or file that holds it."
    )


def _parsed(data: bytes) -> tuple[str, str, dict[str, Any]]:
    try:
        request = json.loads(data)
        secret, command = request["secret"], request["command"]
        arguments = request["arguments"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise EkmError("Malformed administration request.") from None
    if not (isinstance(secret, str) and isinstance(command, str) and isinstance(arguments, dict)):
        raise EkmError("Malformed administration request.")
    return secret, command, arguments


def _who(connection: socket.socket) -> str:
    """Return the user at the other end, by the kernel's word."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    _, user, _ = struct.unpack("iII", credentials)
    return _user_name(user)


def _user_name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


def administer(config: EkmConfig, secret: str, command: str, **arguments: Any) -> Any:
    """Have a command carried out and return its result.

    The running key manager does it; while none runs, this process does, on the same files and for
    the same secret. Raises EkmError and AdminSecretError with the sentence that was answered.
    """
    if config.admin_secret is None:
        raise EkmError(
            "This key manager's configuration names no admin_secret, so nobody may administer it."
        )
    request = {"secret": secret, "command": command, "arguments": arguments}
    try:
        answer = _asked(config.admin_path, json.dumps(request).encode())
    except (FileNotFoundError, ConnectionRefusedError):
        return _done_here(config, secret, command, arguments)
    except (OSError, EOFError, ValueError, FrameError) as error:
        raise EkmError(
            f"The key manager does not answer at {config.admin_path} ({error}); look at its log."
        ) from None
    if "error" in answer:
        raise EkmError(str(answer["error"]))
    return answer["result"]


def _asked(path: Path, request: bytes) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(ANSWER_SECONDS)
        with _short(path) as name:
            connection.connect(name)
        connection.sendall(frame(request, REQUEST_LIMIT))
        data = read_frame(connection.recv, ANSWER_LIMIT)
    if data is None:
        raise EOFError("it ended the connection")
    answer = json.loads(data)
    if not isinstance(answer, dict) or not answer.keys() & {"result", "error"}:
        raise ValueError("its answer is none")
    return answer


def _done_here(config: EkmConfig, secret: str, command: str, arguments: dict[str, Any]) -> Any:
    assert config.admin_secret is not None
    from hsm.ekm.admin.commands import Administration

    with AuditLog(config.audit) as log:
        administration = Administration(config, log)
        who = _user_name(os.getuid())
        if not secret_matches(config.admin_secret, secret):
            administration.refused(who)
            time.sleep(WRONG_SECRET_SECONDS)
            raise _wrong_secret()
        return administration.run(command, arguments, who)
