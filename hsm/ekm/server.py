"""The key manager as a process: ``python -m hsm.ekm.server CONFIG``.

One process, one thread, one PKCS#11 context: token operations run on the event loop itself, because
two threads in one context break SoftHSM. More speed means more processes.

Connections are permanent: a peer that has shown its certificate is never timed out for being idle
(EKM-5). Only what must be quick is timed: the TLS handshake, the rest of a message once
it has begun, and taking an answer.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from hsm.datakeys import EKM_SIGNING_LABEL, DataKeys
from hsm.ekm import messages
from hsm.ekm.audit import AuditLog
from hsm.ekm.certificates import PublicKey
from hsm.ekm.client import tls_context
from hsm.ekm.config import EkmConfig, load_config, parse_config
from hsm.ekm.drive_table import DriveTable
from hsm.ekm.errors import EkmError, ErrorCode, MessageError
from hsm.ekm.exchange import Answer, Exchange, KeyManager
from hsm.ekm.key_service import TokenKeyService
from hsm.errors import TaperigError
from hsm.keystore import Keystore
from hsm.pki import load_certificate
from hsm.token import Token, open_token

USER_ERROR = 2
"""Exit status when the user has something to mend."""
_BACKLOG = 64
_SEND_BUFFER = 2 * messages.FRAME_LIMIT
"""Bytes of unread answers that the kernel keeps for a peer."""
_SHUTDOWN_SECONDS = 5.0
_PR_SET_PDEATHSIG = 1


class EkmServer:
    """Serves key exchanges on a TCP port until told to stop."""

    def __init__(self, config: EkmConfig, manager: KeyManager) -> None:
        """Prepare; nothing listens yet."""
        self._config = config
        self._manager = manager
        self._tls = tls_context(config.tls, ssl.Purpose.CLIENT_AUTH)
        self._connections: set[asyncio.Task[None]] = set()

    async def run(self, on_ready: Callable[[str, int], None]) -> None:
        """Serve until SIGTERM or SIGINT; call ``on_ready`` with the address once it listens."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        listener = self._listen()
        server = await asyncio.start_server(
            self._serve_connection, sock=listener, limit=messages.FRAME_LIMIT, backlog=_BACKLOG
        )
        host, port = listener.getsockname()[:2]
        async with server:
            on_ready(host, port)
            await stop.wait()
            server.close()
            await self._end_connections()

    def _listen(self) -> socket.socket:
        where = f"{self._config.host}:{self._config.port}"
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                self._config.host, self._config.port, type=socket.SOCK_STREAM
            )[0]
            listener = socket.socket(family, kind, protocol)
            try:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
                listener.bind(address)
            except BaseException:
                listener.close()
                raise
        except OSError as error:
            raise EkmError(
                f"The key manager cannot listen on {where} ({error.strerror}); stop what uses the "
                "port, or configure another one."
            ) from error
        return listener

    async def _end_connections(self) -> None:
        """Give each connection the time of one token operation to finish, then end it."""
        for task in self._connections:
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections, timeout=_SHUTDOWN_SECONDS)

    async def _serve_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            if await self._secure(writer):
                await self._serve_frames(reader, writer)
        except asyncio.CancelledError:
            pass  # SIGTERM: the connection ends between two messages
        except (OSError, EOFError):
            pass  # the peer is gone
        except TaperigError as error:
            print(error, file=sys.stderr, flush=True)
        finally:
            self._connections.discard(task)
            writer.close()

    async def _secure(self, writer: asyncio.StreamWriter) -> bool:
        """Shake hands; False when the peer is not one of ours, which the audit log then tells."""
        _keep_alive(writer.get_extra_info("socket"))
        try:
            async with asyncio.timeout(self._config.handshake_seconds):
                await writer.start_tls(self._tls)
        except TimeoutError:
            reason = "no TLS handshake in time"
        except (OSError, EOFError) as error:
            # An SSLError is an OSError; its reason is OpenSSL's own word, not the peer's.
            reason = getattr(error, "reason", None) or type(error).__name__
        else:
            return True
        self._manager.audit.append("connection", outcome="refused", cause=str(reason))
        return False

    async def _serve_frames(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        exchange = Exchange(self._manager)
        try:
            while True:
                answer = await self._next_answer(reader, exchange)
                if answer.frame is not None:
                    await self._send(writer, answer.frame)
                if answer.close:
                    return
        finally:
            exchange.connection_lost()

    async def _send(self, writer: asyncio.StreamWriter, frame: bytes) -> None:
        if writer.is_closing():
            raise ConnectionResetError  # the peer has gone and left messages behind
        self._manager.audit.sync()
        writer.write(messages.frame(frame))
        try:
            async with asyncio.timeout(self._config.frame_seconds):
                await writer.drain()
        except TimeoutError:
            writer.transport.abort()  # closing it would wait for what the peer does not take
            raise

    async def _next_answer(self, reader: asyncio.StreamReader, exchange: Exchange) -> Answer:
        first = await reader.readexactly(1)  # idle as long as the peer likes
        try:
            async with asyncio.timeout(self._config.frame_seconds):
                header = first + await reader.readexactly(messages.LENGTH_BYTES - 1)
                data = await reader.readexactly(messages.frame_length(header))
        except TimeoutError:
            return exchange.refuse_connection(
                ErrorCode.FRAME_TIMEOUT,
                f"A message was begun and not finished within {self._config.frame_seconds:g} s.",
            )
        except MessageError as error:
            return exchange.refuse_connection(ErrorCode.FRAME_TOO_LARGE, str(error))
        return exchange.on_frame(data)


def _keep_alive(connection: socket.socket) -> None:
    """Have the kernel notice a peer that vanished, since no idle timeout does."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 6)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _announce(host: str, port: int) -> None:
    print(f"listening {host}:{port}", flush=True)


def serve(config: EkmConfig, on_ready: Callable[[str, int], None] = _announce) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises EkmError (port, TLS files, drive table, audit log) or TokenError when it cannot begin.
    """
    with ExitStack() as open_files:
        audit = open_files.enter_context(AuditLog(config.audit))
        drives = open_files.enter_context(DriveTable(config.drive_table))
        token = open_files.enter_context(open_token(config.token))
        manager = _manager(config, token, drives, audit)
        server = EkmServer(config, manager)

        def ready(host: str, port: int) -> None:
            audit.append("start", outcome="ok")
            on_ready(host, port)

        asyncio.run(server.run(ready))
        audit.append("stop", outcome="ok")


def _manager(config: EkmConfig, token: Token, drives: DriveTable, audit: AuditLog) -> KeyManager:
    certificate = load_certificate(config.certificate)
    if certificate.public_key() != token.p256_public_key(EKM_SIGNING_LABEL):
        raise EkmError(
            f"The certificate {config.certificate} does not belong to the signing key in the token "
            f"{token.label}; configure the one that was issued for it."
        )
    data_keys = DataKeys(Keystore(token), [_partner_key(path) for path in config.partners])
    return KeyManager(
        certificate_der=certificate.public_bytes(Encoding.DER),
        sign=data_keys.sign,
        drive_ca=load_certificate(config.drive_ca),
        drives=drives,
        audit=audit,
        keys=TokenKeyService(data_keys),
    )


def _partner_key(path: Path) -> PublicKey:
    key = load_certificate(path).public_key()
    if not isinstance(key, PublicKey):
        raise EkmError(f"The partner's certificate {path} holds no P-256 key.")
    return key


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, however that ends."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the kernel was asked
        sys.exit(USER_ERROR)


def main(arguments: Sequence[str] = tuple(sys.argv[1:])) -> int:
    """Run from the command line: ``CONFIG`` (a file, or ``-`` for standard input)."""
    match arguments:
        case [path]:
            pass
        case [path, "--die-with", parent]:
            _die_with(int(parent))
        case _:
            print("usage: python -m hsm.ekm.server CONFIG", file=sys.stderr)
            return USER_ERROR
    try:
        config = parse_config(sys.stdin.read()) if path == "-" else load_config(Path(path))
        with suppress(KeyboardInterrupt):
            serve(config)
    except TaperigError as error:
        print(error, file=sys.stderr)
        return USER_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(main())
