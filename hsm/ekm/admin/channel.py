"""Administration requests over a Unix socket, with the admin secret.

A request and its answer are JSON objects, each after its length in four bytes (big endian):

    {"secret": ..., "command": "drive revoke", "arguments": {"serial": ...}}
    {"result": ...}    or    {"error": "one sentence"}

A connection carries one request, limited in size and time. The secret is checked by scrypt, one
request after the other, and a wrong secret costs a second, so guessing is impractical.
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
_MAX_CONNECTIONS = 16


@contextmanager
def _short_path(path: Path) -> Iterator[str]:
    """Yield a short name for a socket path: the kernel's limit is 107 bytes."""
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
        # Its own writer, because commands run in a thread beside the event loop.
        self._log = AuditLog(config.audit, joined=True)
        self._commands: Administration | None = None
        self._lock = asyncio.Lock()
        self._connections = 0
        self._server: asyncio.Server | None = None

    @property
    def _administration(self) -> Administration:
        """The commands, created at first need in a thread, for the slow import."""
        if self._commands is None:
            from hsm.ekm.admin.commands import Administration

            self._commands = Administration(self._config, self._log)
        return self._commands

    async def __aenter__(self) -> Self:
        """Listen; replace a socket that a killed key manager left."""
        if self._config.admin_secret is None:
            return self
        path = self._config.admin_path
        try:
            with _short_path(path) as name:
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
                f"The key manager cannot listen for administrators at {path} ({error.strerror}); "
                "make its folder writable or set admin_socket."
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
        self._connections += 1
        try:
            if self._connections > _MAX_CONNECTIONS:
                return
            async with asyncio.timeout(REQUEST_SECONDS):
                header = await reader.readexactly(LENGTH_BYTES)
                request = await reader.readexactly(frame_length(header, REQUEST_LIMIT))
            answer = await self._answer(request, _peer_user(writer.get_extra_info("socket")))
            data = json.dumps(answer).encode()
            writer.write(frame(data, ANSWER_LIMIT))
            async with asyncio.timeout(REQUEST_SECONDS):
                await writer.drain()
        except (OSError, EOFError, TimeoutError, FrameError):
            pass
        finally:
            self._connections -= 1
            writer.close()

    async def _answer(self, data: bytes, who: str) -> dict[str, Any]:
        try:
            secret, command, arguments = _parse_request(data)
            async with self._lock:
                await self._check_secret(secret, who)
                result = await asyncio.to_thread(
                    lambda: self._administration.run(command, arguments, who)
                )
            LOG.info("administration", command=command, who=who)
            return {"result": result}
        except TaperigError as error:
            LOG.warning("administration refused", who=who, cause=str(error))
            return {"error": str(error)}
        except Exception as error:
            LOG.error("administration failed unexpectedly", kind=type(error).__name__)
            return {
                "error": f"The key manager failed unexpectedly ({type(error).__name__}); see its "
                "log and report it."
            }

    async def _check_secret(self, secret: str, who: str) -> None:
        assert self._config.admin_secret is not None
        if not await asyncio.to_thread(secret_matches, self._config.admin_secret, secret):
            await asyncio.to_thread(lambda: self._administration.refused(who))
            await asyncio.sleep(WRONG_SECRET_SECONDS)
            raise _wrong_secret()


def _wrong_secret() -> AdminSecretError:
    return AdminSecretError(
        "The admin secret is wrong; correct the environment variable or file that holds it."
    )


def _parse_request(data: bytes) -> tuple[str, str, dict[str, Any]]:
    try:
        request = json.loads(data)
        secret, command = request["secret"], request["command"]
        arguments = request["arguments"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise EkmError("Malformed administration request.") from None
    if not (isinstance(secret, str) and isinstance(command, str) and isinstance(arguments, dict)):
        raise EkmError("Malformed administration request.")
    return secret, command, arguments


def _peer_user(connection: socket.socket) -> str:
    """Return the name of the peer's user, as the kernel reports it."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    _, user, _ = struct.unpack("iII", credentials)
    return _user_name(user)


def _user_name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


def administer(config: EkmConfig, secret: str, command: str, **arguments: Any) -> Any:
    """Carry out an administration command and return its result.

    The running key manager carries it out; while none runs, this process does, on the same files
    and with the same secret. Raises EkmError and AdminSecretError.
    """
    if config.admin_secret is None:
        raise EkmError(
            "This key manager cannot be administered, because its configuration names no "
            "admin_secret; set it to the file with the secret's hash."
        )
    request = {"secret": secret, "command": command, "arguments": arguments}
    try:
        answer = _request(config.admin_path, json.dumps(request).encode())
    except (FileNotFoundError, ConnectionRefusedError):
        return _run_locally(config, secret, command, arguments)
    except (OSError, EOFError, ValueError, FrameError) as error:
        raise EkmError(
            f"The key manager does not answer at {config.admin_path} ({error}); see its log."
        ) from None
    if "error" in answer:
        raise EkmError(str(answer["error"]))
    return answer["result"]


def _request(path: Path, request: bytes) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(ANSWER_SECONDS)
        with _short_path(path) as name:
            connection.connect(name)
        connection.sendall(frame(request, REQUEST_LIMIT))
        data = read_frame(connection.recv, ANSWER_LIMIT)
    if data is None:
        raise EOFError("it closed the connection")
    answer = json.loads(data)
    if not isinstance(answer, dict) or not answer.keys() & {"result", "error"}:
        raise ValueError("its answer is malformed")
    return answer


def _run_locally(config: EkmConfig, secret: str, command: str, arguments: dict[str, Any]) -> Any:
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
