"""Sessions, logins, threads and processes."""

import os
import subprocess
import sys
import threading
from contextlib import suppress
from functools import partial
from typing import Final

from pkcs11 import Attribute

from hsm.validate.attempt import ProbeSkippedError, attempt_any
from hsm.validate.findings import Probe, ProbeAnswer, Status, good_if
from hsm.validate.raw_pkcs11 import RefusedCallError, Session
from hsm.validate.session import AES_256, TokenUnderTest, outside_decrypt

SESSIONS: Final = 64
THREADS: Final = 4
ROUNDS: Final = 150


def _sessions(token: TokenUnderTest) -> ProbeAnswer:
    opened: list[Session] = []
    code = "C_OpenSession: CKR_OK"
    try:
        for _ in range(SESSIONS):
            one = attempt_any(token.library.open_session, token.slot)
            if one.refused:
                code = one.code
                break
            opened.append(one.value)
    finally:
        for session in opened:
            session.close()
    enough = Status.GOOD if len(opened) == SESSIONS else Status.NOTE
    return ProbeAnswer(enough, f"{len(opened)} of {SESSIONS} further sessions opened", code)


def _shared_login(token: TokenUnderTest) -> ProbeAnswer:
    other = token.library.open_session(token.slot)
    try:
        template = {**token.aes_template(EXTRACTABLE=True), Attribute.VALUE_LEN: 32}
        creation = attempt_any(other.generate_key, AES_256, template)
    finally:
        other.close()
    return good_if(
        not creation.refused, "is logged in too", "is not logged in", creation.code, bad=Status.NOTE
    )


def _second_login(token: TokenUnderTest) -> ProbeAnswer:
    again = attempt_any(token.session.login, token.pins.user)
    if again.refused:
        return ProbeAnswer(Status.NOTE, "refused; later sessions need no PIN", again.code)
    return ProbeAnswer(Status.NOTE, "accepted", again.code)


def _relogin(token: TokenUnderTest) -> ProbeAnswer:
    """Log out and in again; check the data keys and the token."""
    key, _ = token.known_data_key()
    token.session.logout()
    locked = attempt_any(
        token.session.generate_key, AES_256, token.aes_template() | {Attribute.VALUE_LEN: 32}
    )
    token.session.login(token.pins.user)
    token.discard_cached_keys()
    stale = attempt_any(token.session.wrap, token.oaep, token.outside_public, key)
    if not locked.refused:
        return ProbeAnswer(Status.RISK, "private keys are made without a login", locked.code)
    working = attempt_any(token.known_data_key)
    if working.refused:
        return ProbeAnswer(Status.LACKS, "no unwrap after logging in again", working.code)
    gone = "data keys are gone" if stale.refused else "data keys are still there"
    return ProbeAnswer(Status.GOOD, f"still works; {gone} after a logout", stale.code)


def _close_all(token: TokenUnderTest) -> ProbeAnswer:
    """Close all sessions, as the removal of a token does; log in again."""
    (key, _), mechanism = token.known_data_key(), token.oaep
    token.library.close_all_sessions(token.slot)
    stale = attempt_any(token.session.wrap, mechanism, key, key)
    return _reopened(token, stale.code, stale.refused)


def _restart(token: TokenUnderTest) -> ProbeAnswer:
    """Call C_Finalize and C_Initialize, as after the loss of a network HSM."""
    key, _ = token.known_data_key()
    token.library.finalize()
    stale = attempt_any(token.session.is_set, key, Attribute.SENSITIVE)
    token.library.initialize()
    return _reopened(token, stale.code, stale.refused)


def _removal(token: TokenUnderTest) -> ProbeAnswer:
    """Remove the token and bring it back, by shell commands of the user."""
    if token.removal is None:
        raise ProbeSkippedError("no commands that remove the token and bring it back were given")
    remove, bring_back = token.removal
    key, _ = token.known_data_key()
    _run_command(remove)
    try:
        away = attempt_any(token.known_data_key)
    finally:
        _run_command(bring_back)
    stale = attempt_any(token.session.is_set, key, Attribute.SENSITIVE)
    how = "its sessions remain valid"
    if stale.refused or attempt_any(token.known_data_key).refused:
        how = "works after a new login"
        if attempt_any(token.reopen).refused:
            how = "works after C_Initialize and a login"
            with suppress(RefusedCallError):
                token.library.finalize()
            token.library.initialize()
            token.slot = token.library.slot_of(token.label)
            token.reopen()
    back = attempt_any(token.known_data_key)
    if back.refused:
        return ProbeAnswer(Status.LACKS, "no unwrap when the token is back", back.code)
    gone = "refused while it is away" if away.refused else "still unwraps while it is away"
    return ProbeAnswer(Status.GOOD, f"{gone}; {how} when it is back", away.code)


def _run_command(command: str) -> None:
    ended = subprocess.run(command, shell=True, capture_output=True, timeout=60, check=False)
    if ended.returncode:
        raise ProbeSkippedError(f"the command {command!r} ended with {ended.returncode}")


def _reopened(token: TokenUnderTest, code: str, refused: bool) -> ProbeAnswer:
    try:
        token.reopen()
    except RefusedCallError as refusal:
        return ProbeAnswer(
            Status.RISK, "no login afterwards", f"{refusal.function}: {refusal.name}"
        )
    working = attempt_any(token.known_data_key)
    if working.refused:
        return ProbeAnswer(Status.LACKS, "no unwrap afterwards", working.code)
    if not refused:
        return ProbeAnswer(Status.RISK, "an old handle still works", code)
    return ProbeAnswer(Status.GOOD, "old handles are refused; works after a new login", code)


def _threads(count: int, token: TokenUnderTest) -> ProbeAnswer:
    """Unwrap and wrap in threads with a session each; check every result."""
    kek, mechanism = token.kek, token.oaep
    _ = token.unwrap_template, token.outside_public
    wrong: list[str] = []
    start = threading.Barrier(count)

    def work() -> None:
        session = token.library.open_session(token.slot)
        start.wait()
        for _ in range(ROUNDS):
            value = os.urandom(32)
            try:
                key = session.unwrap(
                    mechanism,
                    kek.private,
                    token.wrap_outside(value, kek),
                    token.session_template(token.unwrap_template),
                )
                back = session.wrap(mechanism, public, key)
                session.destroy(key)
            except RefusedCallError as refusal:
                wrong.append(f"{refusal.function}: {refusal.name}")
                continue
            try:
                if outside_decrypt(token.outside, back, token.best_hash) != value:
                    wrong.append("another key was returned")
            except ValueError:
                wrong.append("the wrapped key cannot be unwrapped")
        session.close()

    public = token.outside_public
    template = token.unwrap_template
    if template.get(Attribute.WRAP_WITH_TRUSTED):
        token.__dict__["keeps_wrap_with_trusted"] = False  # so that the key can be read
    workers = [threading.Thread(target=work) for _ in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    done = f"{count} threads, {count * ROUNDS} keys"
    if wrong:
        return ProbeAnswer(Status.LACKS, f"unreliable: {len(wrong)} of {done} failed", wrong[0])
    return ProbeAnswer(Status.GOOD, f"reliable: {done}, none wrong", "C_UnwrapKey: CKR_OK")


def _processes(token: TokenUnderTest) -> ProbeAnswer:
    """Make and destroy a stored key; see whether another process finds it."""
    template = token.token_template(
        {**token.aes_template(EXTRACTABLE=False), Attribute.VALUE_LEN: 32}
    )
    key = token.session.generate_key(AES_256, template)
    try:
        identity = token.session.get(key, Attribute.ID)
        seen = _count_in_other_process(token, identity)
    finally:
        token.session.destroy(key)
    left = _count_in_other_process(token, identity)
    if seen is None or left is None:
        return ProbeAnswer(Status.LACKS, "a second process cannot open the token")
    return good_if(
        (seen, left) == (1, 0),
        "a second process sees a new key, and its removal",
        f"a second process saw {seen} keys of 1, and {left} of 0",
        "C_FindObjects: CKR_OK",
        bad=Status.LACKS,
    )


def _count_in_other_process(token: TokenUnderTest, identity: bytes) -> int | None:
    """Return how many objects of this CKA_ID another process finds, or None.

    The PIN goes through a pipe. None: the process failed.
    """
    arguments = [str(token.library.path), str(token.label), identity.hex()]
    ended = subprocess.run(
        [sys.executable, "-m", "hsm.validate.second_process", *arguments],
        input=token.pins.user,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return int(ended.stdout) if ended.returncode == 0 else None


PROBES: Final = (
    Probe("life.sessions", "Many sessions", _sessions),
    Probe("life.shared_login", "A second session after a login", _shared_login),
    Probe("life.second_login", "A second login", _second_login),
    Probe("life.relogin", "Logout and login", _relogin, alone=True),
    Probe("life.close_all", "C_CloseAllSessions and login", _close_all, alone=True),
    Probe("life.restart", "C_Finalize and C_Initialize", _restart, alone=True),
    Probe(
        "life.removal", "The token removed and brought back", _removal, alone=True, seconds=180.0
    ),
    Probe("life.processes", "Two processes", _processes),
    Probe(
        "life.threads",
        "Threads, without locking",
        partial(_threads, THREADS),
        alone=True,
        seconds=20.0,
    ),
    Probe(
        "life.threads_locking",
        "Threads, with locking (CKF_OS_LOCKING_OK)",
        partial(_threads, THREADS),
        alone=True,
        locking=True,
        seconds=20.0,
    ),
)
