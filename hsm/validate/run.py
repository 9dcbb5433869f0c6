"""A whole validation: workers are started, their findings collected, the module's crashes survived.

No module is loaded into this process. A worker makes its probes until it is through or the module
ends it, or lets a probe hang; that is a finding, and another worker makes the rest.
"""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

from hsm.errors import (
    ModuleAbsentError,
    PinLockedError,
    TokenError,
    TokenRefusedError,
    WrongPinError,
)
from hsm.validate.findings import Finding, Probe, ProbeAnswer, Status
from hsm.validate.probes import PROBES
from hsm.validate.report import Validation
from hsm.validate.return_codes import ReturnCode, code_name
from hsm.validate.session import Pins
from hsm.validate.verdict import judge

START_SECONDS: Final = 120.0
_WRONG_PIN: Final = (ReturnCode.PIN_INCORRECT, ReturnCode.PIN_INVALID, ReturnCode.PIN_LEN_RANGE)

OnFinding = Callable[[Finding], None]


class ModuleCrashedError(TokenError):
    """The module ended its process before it could be asked anything."""


@dataclass(slots=True)
class _Seen:
    """What all workers together reported."""

    findings: dict[str, Finding]
    leftovers: int = 0
    left: int | None = None


def validate(
    module: Path,
    label: str,
    pins: Pins,
    *,
    softhsm_conf: Path | None = None,
    removal: tuple[str, str] | None = None,
    probes: Sequence[str] = tuple(PROBES),
    progress: OnFinding = lambda finding: None,
) -> Validation:
    """Make the probes at the token `label` and judge what they find; return everything.

    `softhsm_conf` is for SoftHSM only; `removal` are the shell commands that take the token away
    and bring it back, for the probe that needs them; `probes` are names of PROBES, made in the
    order given.
    Raises, for what is wrong before the first probe: ModuleAbsentError, WrongPinError,
    PinLockedError, TokenRefusedError, ModuleCrashedError, and TokenError with the worker's words.
    """
    if not module.is_file():
        raise ModuleAbsentError(f"There is no PKCS#11 module at {module}; correct the path.")
    began, clock = datetime.now(UTC), time.monotonic()
    request = {
        "module": str(module),
        "label": label,
        "user_pin": pins.user,
        "officer_pin": pins.officer,
        "removal": removal,
    }
    environment = dict(os.environ)
    if softhsm_conf is not None:
        environment["SOFTHSM2_CONF"] = str(softhsm_conf)
    seen = _Seen({})
    _ask(request, [], environment, seen, progress)  # opens at all? and removes leftovers
    for group in _groups([PROBES[name] for name in probes]):
        _ask_all(request, group, environment, seen, progress)
    _ask(request, [], environment, seen, progress)
    findings = tuple(seen.findings[name] for name in probes)
    return Validation(
        module=str(module),
        token=label,
        began=began,
        seconds=time.monotonic() - clock,
        findings=findings,
        verdict=judge(findings),
        leftovers_removed=seen.leftovers,
        left_behind=seen.left or 0,
    )


def _groups(probes: Sequence[Probe]) -> Iterator[list[Probe]]:
    """Give the probes in groups for one worker each, in their order."""
    group: list[Probe] = []
    for probe in probes:
        if probe.alone:
            if group:
                yield group
            yield [probe]
            group = []
        else:
            group.append(probe)
    if group:
        yield group


def _ask_all(
    request: dict[str, Any],
    group: Sequence[Probe],
    environment: dict[str, str],
    seen: _Seen,
    progress: OnFinding,
) -> None:
    """Make all probes of a group, with as many workers as the module ends."""
    rest = list(group)
    while rest:
        _ask(request, rest, environment, seen, progress)
        rest = [probe for probe in rest if probe.name not in seen.findings]


def _ask(
    request: dict[str, Any],
    probes: Sequence[Probe],
    environment: dict[str, str],
    seen: _Seen,
    progress: OnFinding,
) -> None:
    """Run one worker; its last probe is a finding also when it does not come to an end."""
    reading, writing = os.pipe()
    with tempfile.TemporaryFile() as errors, os.fdopen(reading, "rb") as answers:
        process = subprocess.Popen(
            [sys.executable, "-m", "hsm.validate.worker", str(writing)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            pass_fds=(writing,),
            env=environment,
            process_group=0,
        )
        os.close(writing)
        try:
            assert process.stdin is not None
            locking = any(probe.locking for probe in probes)
            names = [probe.name for probe in probes]
            line = json.dumps({**request, "locking": locking, "probes": names}) + "\n"
            try:
                with process.stdin as pipe:
                    pipe.write(line.encode())
            except BrokenPipeError:
                pass  # how it ended is told below
            _listen(process, answers, errors, probes, seen, progress)
        finally:
            process.kill()
            process.wait()


def _listen(
    process: subprocess.Popen[bytes],
    answers: IO[bytes],
    errors: IO[bytes],
    probes: Sequence[Probe],
    seen: _Seen,
    progress: OnFinding,
) -> None:
    """Take what a worker tells until it has told all, or ends, or does not answer."""
    at: Probe | None = None

    def found(probe: Probe, answer: ProbeAnswer) -> None:
        finding = Finding(probe.name, probe.asks, answer)
        seen.findings[probe.name] = finding
        progress(finding)

    lines = _Lines(answers)
    while True:
        patience = at.seconds if at else START_SECONDS
        try:
            message = lines.read(patience)
        except TimeoutError:
            if at is None:
                raise ModuleCrashedError(f"The module did not answer in {patience:g} s.") from None
            found(at, ProbeAnswer(Status.HUNG, f"no answer in {patience:g} s"))
            return
        if message is None:
            break
        if "error" in message:
            raise TokenError(message["error"])
        if "refused" in message:
            refusal = _refused(message["refused"], message["code"])
            if not probes:
                raise refusal
            found(probes[0], ProbeAnswer(Status.NOT_TRIED, str(refusal)))
            return
        seen.leftovers += message.get("leftovers", 0)
        seen.left = message.get("left", seen.left)
        if "begin" in message:
            at = PROBES[message["begin"]]
        elif "status" in message and at is not None:
            status = Status(message["status"])
            found(at, ProbeAnswer(status, message["does"], message["code"], message["rate"]))
            at = None
        elif "end" in message:
            return
    if at is None:  # it ended between two probes, or after the last
        rest = [probe for probe in probes if probe.name not in seen.findings]
        at = next(iter(rest or reversed(probes)), None)
        _check_own_end(process.wait(), errors)
    if at is None:
        raise ModuleCrashedError(f"The module ended its process when opened ({_how(process)}).")
    found(at, ProbeAnswer(Status.CRASHED, f"the module ended its process ({_how(process)})"))


def _check_own_end(code: int, errors: IO[bytes]) -> None:
    """Raise what a worker said that ended itself: that is no doing of the module."""
    if code > 0:
        errors.seek(0)
        words = errors.read()[-2000:].decode("utf-8", "replace").strip()
        raise ModuleCrashedError(f"The worker ended with status {code}: {words or 'no words'}")


def _how(process: subprocess.Popen[bytes]) -> str:
    """Return how a process ended, in words."""
    code = process.wait()
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"


class _Lines:
    """Lines of JSON from a pipe, each awaited no longer than it may take."""

    def __init__(self, answers: IO[bytes]) -> None:
        self._descriptor = answers.fileno()
        self._rest = b""

    def read(self, seconds: float) -> dict[str, Any] | None:
        """Return the next line, None at the end; raises TimeoutError."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self._rest:
            ready, _, _ = select.select(
                [self._descriptor], [], [], max(0.0, deadline - time.monotonic())
            )
            if not ready:
                raise TimeoutError
            part = os.read(self._descriptor, 65536)
            if not part:
                return None
            self._rest += part
        line, self._rest = self._rest.split(b"\n", 1)
        message: dict[str, Any] = json.loads(line)
        return message


def _refused(function: str, code: int) -> TokenError:
    """Return what a refusal before the first probe means."""
    if function == "C_Login" and code in _WRONG_PIN:
        return WrongPinError(
            f"The token refused the user's PIN ({code_name(code)}); correct it, where it is typed "
            "or kept, before more attempts lock it."
        )
    if function == "C_Login" and code == ReturnCode.PIN_LOCKED:
        return PinLockedError("The token has locked the user's PIN; unlock it with its own tool.")
    return TokenRefusedError(f"The token cannot be opened ({function}: {code_name(code)}).")
