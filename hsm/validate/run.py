"""Run a validation: start workers, collect findings, survive crashes.

No module is loaded into this process. A worker runs its probes until it has finished, or the module
crashes it, or a probe hangs. A crash or a hang is a finding, and another worker runs the rest.
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
from functools import partial
from pathlib import Path
from typing import IO, Any, Final

from hsm.errors import (
    ModuleAbsentError,
    PinLockedError,
    TokenError,
    TokenRefusedError,
    WrongPinError,
)
from hsm.pkcs11.token_storage import require_file_size
from hsm.validate.findings import Finding, Probe, ProbeAnswer, Status
from hsm.validate.probes import PROBES
from hsm.validate.report import Validation
from hsm.validate.return_codes import ReturnCode, code_name
from hsm.validate.session import Pins
from hsm.validate.verdict import grade

START_SECONDS: Final = 120.0
_WRONG_PIN: Final = (ReturnCode.PIN_INCORRECT, ReturnCode.PIN_INVALID, ReturnCode.PIN_LEN_RANGE)

OnFinding = Callable[[Finding], None]


class ModuleCrashedError(TokenError):
    """The module crashed or hung outside a probe."""


class ModuleHungError(ModuleCrashedError):
    """The module did not answer while the token was opened or closed."""


@dataclass(slots=True)
class _Results:
    """The reports of all workers of a validation."""

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
    """Run the probes on the token `label` and grade it.

    `softhsm_conf` is for SoftHSM only. `removal` are the shell commands that remove the token and
    bring it back, for the probe life.removal. `probes` are names of PROBES, run in the order given.
    `progress` is called with each finding. Raises, when the token cannot be opened:
    ModuleAbsentError, WrongPinError, PinLockedError, TokenRefusedError, ModuleCrashedError, and
    TokenError with the message of the worker.
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
        require_file_size(label)
        environment["SOFTHSM2_CONF"] = str(softhsm_conf)
    results = _Results({})
    # The first worker runs no probe: it checks that the token opens, and removes leftovers.
    _run_worker(request, [], environment, results, progress)
    chosen = [PROBES[name] for name in probes]
    try:
        for group in _groups(chosen):
            _run_group(request, group, environment, results, progress)
        _run_worker(request, [], environment, results, progress)
    except TokenError as error:
        _give_up(error, chosen, results, progress)
    findings = tuple(results.findings[name] for name in probes)
    return Validation(
        module=str(module),
        token=label,
        began=began,
        seconds=time.monotonic() - clock,
        findings=findings,
        verdict=grade(findings),
        leftovers_removed=results.leftovers,
        left_behind=results.left or 0,
    )


def _give_up(
    error: TokenError, probes: Sequence[Probe], results: _Results, progress: OnFinding
) -> None:
    """Record why the token cannot be used any more; keep the findings so far.

    It is the finding of the next probe, or of the last one when all were run.
    """
    if not probes:
        raise error
    hung = isinstance(error, ModuleHungError)
    status = Status.HUNG if hung else Status.CRASHED
    rest = [probe for probe in probes if probe.name not in results.findings]
    if not rest:
        _record(probes[-1], ProbeAnswer(status, f"afterwards: {error}"), results, progress)
        return
    _record(rest[0], ProbeAnswer(status, f"before it: {error}"), results, progress)
    for probe in rest[1:]:
        _record(probe, ProbeAnswer(Status.NOT_DETERMINED, str(error)), results, progress)


def _record(probe: Probe, answer: ProbeAnswer, results: _Results, progress: OnFinding) -> None:
    finding = Finding(probe.name, probe.asks, answer)
    results.findings[probe.name] = finding
    progress(finding)


def _groups(probes: Sequence[Probe]) -> Iterator[list[Probe]]:
    """Yield the probes in their order, in groups for one worker each."""
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


def _run_group(
    request: dict[str, Any],
    group: Sequence[Probe],
    environment: dict[str, str],
    results: _Results,
    progress: OnFinding,
) -> None:
    """Run all probes of a group; start another worker after each crash."""
    rest = list(group)
    while rest:
        _run_worker(request, rest, environment, results, progress)
        rest = [probe for probe in rest if probe.name not in results.findings]


def _run_worker(
    request: dict[str, Any],
    probes: Sequence[Probe],
    environment: dict[str, str],
    results: _Results,
    progress: OnFinding,
) -> None:
    """Run one worker; record a finding also for a probe that does not end."""
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
                pass  # _collect reports how the worker ended
            _collect(process, answers, errors, probes, results, progress)
        finally:
            process.kill()
            process.wait()


def _collect(
    process: subprocess.Popen[bytes],
    answers: IO[bytes],
    errors: IO[bytes],
    probes: Sequence[Probe],
    results: _Results,
    progress: OnFinding,
) -> None:
    """Collect the answers of a worker until it finishes, ends or hangs."""
    current: Probe | None = None
    record = partial(_record, results=results, progress=progress)
    lines = _JsonLines(answers)
    while True:
        timeout = current.seconds if current else START_SECONDS
        try:
            message = lines.read(timeout)
        except TimeoutError:
            if current is None:
                raise ModuleHungError(
                    f"The module did not answer in {timeout:g} s while the token was opened or "
                    "closed; check that its device or service runs."
                ) from None
            record(current, ProbeAnswer(Status.HUNG, f"no answer in {timeout:g} s"))
            return
        if message is None:
            break
        if "error" in message:
            raise TokenError(message["error"])
        if "refused" in message:
            refusal = _open_error(message["refused"], message["code"])
            if not probes:
                raise refusal
            record(probes[0], ProbeAnswer(Status.NOT_TRIED, str(refusal)))
            return
        results.leftovers += message.get("leftovers", 0)
        results.left = message.get("left", results.left)
        if "begin" in message:
            current = PROBES[message["begin"]]
        elif "status" in message and current is not None:
            status = Status(message["status"])
            record(current, ProbeAnswer(status, message["does"], message["code"], message["rate"]))
            current = None
        elif "end" in message:
            return
    if current is None:  # the worker ended between two probes, or after the last
        rest = [probe for probe in probes if probe.name not in results.findings]
        current = next(iter(rest or reversed(probes)), None)
        _raise_worker_error(process.wait(), errors)
    if current is None:
        raise ModuleCrashedError(
            f"The module ended its process when it was opened ({_describe_end(process)}); check "
            "that it is a PKCS#11 module for this system and is configured."
        )
    record(
        current,
        ProbeAnswer(Status.CRASHED, f"the module ended its process ({_describe_end(process)})"),
    )


def _raise_worker_error(code: int, errors: IO[bytes]) -> None:
    """Raise the error of a worker that failed by itself, not by the module."""
    if code > 0:
        errors.seek(0)
        text = errors.read()[-2000:].decode("utf-8", "replace").strip()
        raise ModuleCrashedError(f"The worker ended with status {code}: {text or 'no message'}")


def _describe_end(process: subprocess.Popen[bytes]) -> str:
    """Return a text that says how a process ended."""
    code = process.wait()
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"


class _JsonLines:
    """Lines of JSON from a pipe, read with a timeout."""

    def __init__(self, answers: IO[bytes]) -> None:
        self._descriptor = answers.fileno()
        self._rest = b""

    def read(self, seconds: float) -> dict[str, Any] | None:
        """Return the next line, or None at the end; raise TimeoutError."""
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


def _open_error(function: str, code: int) -> TokenError:
    """Return the error for a call refused before the first probe."""
    if function == "C_Login" and code in _WRONG_PIN:
        return WrongPinError(
            f"The token refused the user's PIN ({code_name(code)}); correct it before more "
            "attempts lock it."
        )
    if function == "C_Login" and code == ReturnCode.PIN_LOCKED:
        return PinLockedError("The token has locked the user's PIN; unlock it with its own tool.")
    return TokenRefusedError(
        f"The token cannot be opened ({function}: {code_name(code)}); check it with the HSM's "
        "own tool."
    )
