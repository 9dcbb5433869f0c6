"""What a probe is and what it finds: what the token does, with the exact return code."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from hsm.validate.raw_pkcs11 import RefusedCallError

if TYPE_CHECKING:
    from hsm.validate.session import TokenUnderTest
from hsm.validate.attempt import ProbeSkippedError

PROBE_SECONDS: Final = 60.0


class Status(StrEnum):
    """How what was found stands to what the rig needs."""

    GOOD = "good"
    """As the rig wants it."""
    LACKS = "lacks"
    """The token does not do it."""
    RISK = "risk"
    """The token does what weakens the protection of keys."""
    NOTE = "note"
    """Neither good nor bad, but the rig has to know."""
    CRASHED = "crashed"
    """The module ended its process."""
    HUNG = "hung"
    """The module did not answer in time."""
    NOT_TRIED = "not tried"
    """What the probe stands on is not there; `does` says what."""


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """What a probe saw."""

    status: Status
    does: str
    code: str = ""
    """The call that decided and what it returned: `C_WrapKey: CKR_OK`."""
    rate: float | None = None
    """Operations a second, where the probe measures."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A probe's answer with the question."""

    probe: str
    asks: str
    answer: ProbeAnswer

    @property
    def status(self) -> Status:
        """The answer's status."""
        return self.answer.status


@dataclass(frozen=True, slots=True)
class Probe:
    """A question to a token. `alone`: in a process of its own, because it may ruin the module."""

    name: str
    """area.question, as in reports."""
    asks: str
    run: "Callable[[TokenUnderTest], ProbeAnswer]"
    alone: bool = False
    locking: bool = False
    """Whether the module is asked for the system's locks; such a probe is alone."""
    seconds: float = PROBE_SECONDS

    @property
    def area(self) -> str:
        """The first part of the name."""
        return self.name.partition(".")[0]


def run_probe(probe: Probe, token: "TokenUnderTest") -> ProbeAnswer:
    """Run a probe; a refusal that it did not expect is an answer too."""
    try:
        return probe.run(token)
    except ProbeSkippedError as reason:
        return ProbeAnswer(Status.NOT_TRIED, str(reason))
    except RefusedCallError as refusal:
        return ProbeAnswer(Status.LACKS, "refused", f"{refusal.function}: {refusal.name}")
    except Exception as error:  # a token may answer anything; the other probes go on
        return ProbeAnswer(
            Status.NOT_TRIED, f"the probe itself failed: {type(error).__name__}: {error}"
        )


def good_if(holds: bool, does: str, otherwise: str, code: str, *, bad: Status) -> ProbeAnswer:
    """Return GOOD and what the token does, or `bad` and what it does instead."""
    return ProbeAnswer(Status.GOOD, does, code) if holds else ProbeAnswer(bad, otherwise, code)


def by_name(probes: Iterable[Probe]) -> dict[str, Probe]:
    """Return the probes by their names, which must differ."""
    found: dict[str, Probe] = {}
    for probe in probes:
        if probe.name in found:
            raise ValueError(f"two probes are called {probe.name}")
        found[probe.name] = probe
    return found
