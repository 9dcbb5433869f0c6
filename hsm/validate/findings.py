"""Probes and their findings: what a token does, with the return code."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from hsm.validate.raw_pkcs11 import RefusedCallError

if TYPE_CHECKING:
    from hsm.validate.session import TokenUnderTest
from hsm.validate.attempt import NotDeterminedError, ProbeSkippedError

PROBE_SECONDS: Final = 60.0


class Status(StrEnum):
    """The grade of a finding, by what the rig needs."""

    GOOD = "good"
    """As the rig needs it."""
    LACKS = "lacks"
    """The token does not do it."""
    RISK = "risk"
    """The token weakens the protection of keys."""
    NOTE = "note"
    """Neither good nor bad, but worth knowing."""
    CRASHED = "crashed"
    """The module crashed its process, or ended it."""
    HUNG = "hung"
    """The module did not answer in time."""
    NOT_TRIED = "not tried"
    """Something that the probe needs is missing; `does` says what."""
    NOT_DETERMINED = "undetermined"
    """The token failed in another way than the probe asks about."""


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """The answer of a token to a probe."""

    status: Status
    does: str
    code: str = ""
    """The call that decided and its return code: `C_WrapKey: CKR_OK`."""
    rate: float | None = None
    """Operations a second, where the probe measures."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A probe's question with the token's answer."""

    probe: str
    asks: str
    answer: ProbeAnswer

    @property
    def status(self) -> Status:
        """The answer's status."""
        return self.answer.status


@dataclass(frozen=True, slots=True)
class Probe:
    """A question to a token, and the function that answers it."""

    name: str
    """area.question, as in reports."""
    asks: str
    run: "Callable[[TokenUnderTest], ProbeAnswer]"
    alone: bool = False
    """Whether it needs a process of its own, because it may corrupt the module."""
    locking: bool = False
    """Whether the module is initialized with CKF_OS_LOCKING_OK; implies `alone`."""
    seconds: float = PROBE_SECONDS

    @property
    def area(self) -> str:
        """The first part of the name."""
        return self.name.partition(".")[0]


def run_probe(probe: Probe, token: "TokenUnderTest") -> ProbeAnswer:
    """Run a probe; turn any exception into an answer."""
    try:
        return probe.run(token)
    except ProbeSkippedError as reason:
        return ProbeAnswer(Status.NOT_TRIED, str(reason))
    except NotDeterminedError as failure:
        return ProbeAnswer(Status.NOT_DETERMINED, f"it failed otherwise ({failure})")
    except RefusedCallError as refusal:
        return ProbeAnswer(Status.LACKS, "refused", f"{refusal.function}: {refusal.name}")
    except Exception as error:  # a token may answer anything; the other probes must still run
        return ProbeAnswer(
            Status.NOT_TRIED, f"the probe itself failed: {type(error).__name__}: {error}"
        )


def good_if(holds: bool, does: str, otherwise: str, code: str, *, bad: Status) -> ProbeAnswer:
    """Return the answer GOOD with `does`, or `bad` with `otherwise`."""
    return ProbeAnswer(Status.GOOD, does, code) if holds else ProbeAnswer(bad, otherwise, code)


def by_name(probes: Iterable[Probe]) -> dict[str, Probe]:
    """Return the probes by name; raise ValueError for a duplicate name."""
    named: dict[str, Probe] = {}
    for probe in probes:
        if probe.name in named:
            raise ValueError(f"two probes have the name {probe.name}")
        named[probe.name] = probe
    return named
