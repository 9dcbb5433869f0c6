"""From findings to the verdict: fit, fit with limits (which), unfit (why).

What the rig cannot do without makes a token unfit. What it has a way around, or what weakens
the protection of keys against someone who has the user's PIN, is a limit: it is told with what is
lost and what the rig does about it. The verdict is for a key manager's token, which holds KEKs;
whether the token could be a drive's secure element is said beside it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from hsm.pkcs11.accepted_risks import TokenRisk
from hsm.validate.findings import Finding, Status

Found = dict[str, Finding]


class Fitness(StrEnum):
    """The verdict in a word."""

    FIT = "fit"
    LIMITED = "fit with limits"
    UNFIT = "unfit"


@dataclass(frozen=True, slots=True)
class Consequence:
    """A reason to call a token unfit, or a limit."""

    name: str
    lost: str
    around: str
    """What the rig or its user does about it; empty where nothing can be done."""
    because: tuple[str, ...]
    """The probes that show it."""
    accept: TokenRisk | None = None
    """The word in a lab file with which the rig works on the token all the same."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a token may hold the rig's KEKs."""

    fitness: Fitness
    unfit: tuple[Consequence, ...]
    limits: tuple[Consequence, ...]
    secure_element: tuple[Consequence, ...]
    """Why the token cannot be a drive's secure element; empty when it can."""
    complete: bool = True
    """Whether every probe that the verdict stands on was made."""

    @property
    def accept(self) -> tuple[TokenRisk, ...]:
        """What a lab file has to accept for the rig to work on this token."""
        return tuple(sorted({limit.accept for limit in self.limits if limit.accept}))

    @property
    def sentence(self) -> str:
        """The verdict in a line."""
        named = self.unfit or self.limits
        words = f"{self.fitness.value}{': ' if named else ''}{', '.join(c.name for c in named)}"
        return words if self.complete else f"as far as was tried, {words}"


@dataclass(frozen=True, slots=True)
class GradingRule:
    """A consequence and what brings it about: any of the probes not as it must be."""

    name: str
    probes: tuple[str, ...]
    lost: str
    around: str = ""
    when: Callable[[Finding], bool] = lambda finding: finding.status is not Status.GOOD
    accept: TokenRisk | None = None

    def apply(self, found: Found) -> Consequence | None:
        """Return the consequence if the findings bring it about."""
        because = tuple(name for name in self.probes if name in found and self.when(found[name]))
        if not because:
            return None
        return Consequence(self.name, self.lost, self.around, because, self.accept)


def _risk(finding: Finding) -> bool:
    return finding.status in (Status.RISK, Status.CRASHED, Status.HUNG)


def _bad(finding: Finding) -> bool:
    return finding.status not in (Status.GOOD, Status.NOTE, Status.NOT_TRIED)


def _said(words: str) -> Callable[[Finding], bool]:
    return lambda finding: words in finding.answer.does


UNFIT: Final = (
    GradingRule(
        "label not unique",
        ("declared.label",),
        "a token is chosen by its label, and another token has the same",
        when=lambda finding: finding.status is Status.LACKS,
    ),
    GradingRule(
        "no data keys",
        ("data_keys.as_rig", "data_keys.distinct"),
        "no fresh AES-256 data key can be made in the token (KEY-1)",
    ),
    GradingRule(
        "no certificates", ("objects.certificate",), "KEKs are certificates in the token (KEY-3)"
    ),
    GradingRule(
        "no public keys that wrap",
        ("rsa_keys.public_only",),
        "no EEDK can be made, and no SEDK for a drive (KEY-4)",
    ),
    GradingRule(
        "values in the clear",
        (
            "data_keys.value_hidden",
            "attributes.sensitive",
            "rsa_keys.hidden",
            "attacks.set_sensitive",
            "attacks.copy_sensitive",
        ),
        "a key's value can be read out of the token (KEY-12)",
        when=_risk,
    ),
    GradingRule(
        "KEKs not protected",
        ("rsa_keys.protected",),
        "a KEK's private half does not get the protection asked for",
        when=_risk,
    ),
    GradingRule(
        "damage not noticed",
        ("faults.damaged", "faults.cut", "faults.empty", "faults.other_key", "faults.other_hash"),
        "a damaged or foreign EEDK opens, to a wrong data key",
        when=_risk,
    ),
    GradingRule(
        "no work after a new login",
        ("life.close_all", "life.restart", "life.relogin", "life.removal"),
        "the key manager cannot go on after the token was away",
        when=_bad,
    ),
)

LIMITS: Final = (
    GradingRule(
        "no signing key",
        ("rsa_keys.p256",),
        "the token makes no P-256 keys, so the key that signs EEDKs and replies is not in it",
        "the key manager's signing key is in a file of mode 0600",
        accept=TokenRisk.SIGNING_KEY_IN_FILE,
    ),
    GradingRule(
        "SHA-1",
        ("oaep.sha256_wrap", "oaep.sha256_unwrap"),
        "data keys are wrapped with OAEP SHA-1, which is not broken, but is not wanted either",
        "probed at start; every EEDK records its hash; never chosen where SHA-256 works",
    ),
    GradingRule(
        "untrusted wrapping",
        ("attributes.wrap_with_trusted",),
        "the token wraps a data key to any key: whoever has the user's PIN can take it out",
        "the keystore wraps only to public keys that hash to the identity enrolled; keep the PIN "
        "from everybody else",
        accept=TokenRisk.UNTRUSTED_WRAPPING,
    ),
    GradingRule(
        "unwraps weakly",
        ("attacks.weaker_template", "attacks.drop_trusted", "attacks.raw_rsa"),
        "whoever has the user's PIN and an EEDK can take the data key out",
        "keep the PIN from everybody else",
        when=_risk,
    ),
    GradingRule(
        "hands out keys not extractable",
        (
            "attacks.wrap_kek",
            "attributes.extractable",
            "attacks.set_extractable",
            "attacks.copy_extractable",
        ),
        "whoever has the user's PIN can take the KEKs themselves out",
        "for a lab only; the PIN is all that protects the KEKs",
        when=_risk,
        accept=TokenRisk.HANDS_OUT_KEYS,
    ),
    GradingRule(
        "KEKs decrypt",
        ("attacks.decrypt", "attacks.let_decrypt"),
        "a KEK that should only unwrap can be made to decrypt EEDKs",
        "keep the PIN from everybody else",
        when=_risk,
    ),
    GradingRule(
        "PKCS#1 v1.5",
        ("attacks.pkcs1_oracle",),
        "a KEK unwraps PKCS#1 v1.5 and tells good padding from bad (an oracle)",
        "the key manager unwraps nothing but EEDKs that a key manager signed, and with OAEP only",
        when=_risk,
    ),
    GradingRule(
        "the user makes keys trusted",
        ("attacks.trusted_create", "attacks.trusted_set", "attacks.trusted_copy"),
        "TRUSTED means nothing: it is not the officer's alone",
        "as for untrusted wrapping",
        when=_risk,
    ),
    GradingRule(
        "protection can be changed",
        (
            "attacks.set_wrap_with_trusted",
            "attacks.copy_wrap_with_trusted",
            "attacks.set_uses",
            "attacks.copy_uses",
            "attacks.derive",
        ),
        "a data key in use can be given uses that it was made without",
        "keep the PIN from everybody else; data keys live for one exchange",
        when=_risk,
    ),
    GradingRule(
        "unwrap template dropped",
        ("attributes.unwrap_honours",),
        "an unwrapped data key is not protected until the rig has set its attributes",
        "SENSITIVE is set right after the unwrap and read back; a key that does not keep it is "
        "destroyed",
    ),
    GradingRule(
        "length untold",
        ("faults.tells_length",),
        "the token does not tell how long an unwrapped key is",
        "two gauge keys, which the officer makes at enrolment, measure every unwrapped key",
    ),
    GradingRule(
        "no key made",
        ("rsa_keys.generate_2048",),
        "KEKs are not made in the token",
        "make them elsewhere and import them",
    ),
    GradingRule(
        "no key taken in",
        ("rsa_keys.import",),
        "KEKs made elsewhere cannot be imported",
        "make them in the token; other sites send certificates",
    ),
    GradingRule(
        "not all sizes",
        ("rsa_keys.generate_3072", "rsa_keys.generate_4096"),
        "KEKs of these sizes are not made",
        "use the sizes that are",
    ),
    GradingRule(
        "short labels",
        ("objects.label_long",),
        "key labels of 64 characters are not kept (KEY-5)",
        "use shorter ones",
    ),
    GradingRule(
        "no threads",
        ("life.threads",),
        "two threads in one context are not sound",
        "one process, one thread, one context: the rig never does otherwise",
    ),
    GradingRule(
        "one process",
        ("life.processes",),
        "a second process does not see the token as the first does",
        "one key manager process for this token",
    ),
    GradingRule(
        "crashes",
        (),  # every probe: see judge()
        "the module ended its process, or did not answer",
        "the key manager's worker is a process that can be started again",
    ),
)

_SECURE_ELEMENT: Final = (
    GradingRule(
        "no AES-KEY-WRAP",
        ("key_wrap.key_wrap_wrap",),
        "a data key cannot be sealed for the gates (RFC 3394)",
        "the drive's secure element is another token; SoftHSM by default",
    ),
)


def judge(findings: Sequence[Finding]) -> Verdict:
    """Return the verdict on what the probes found; probes that were not made say nothing."""
    found = {finding.probe: finding for finding in findings}
    unfit = [consequence for rule in UNFIT if (consequence := rule.apply(found))]
    unfit += _no_oaep(found) + _no_kek(found) + _no_protection(found)
    limits = [consequence for rule in LIMITS if (consequence := rule.apply(found))]
    limits += _crashes(found)
    element = [consequence for rule in _SECURE_ELEMENT if (consequence := rule.apply(found))]
    fitness = Fitness.UNFIT if unfit else Fitness.LIMITED if limits else Fitness.FIT
    complete = all(
        name in found for rule in (*UNFIT, *LIMITS, *_SECURE_ELEMENT) for name in rule.probes
    )
    return Verdict(fitness, tuple(unfit), tuple(limits), tuple(element), complete)


def _good(found: Found, *names: str) -> bool:
    return all(name not in found or found[name].status is Status.GOOD for name in names)


def _no_oaep(found: Found) -> list[Consequence]:
    names = {kind: (f"oaep.{kind}_wrap", f"oaep.{kind}_unwrap") for kind in ("sha256", "sha1")}
    if any(_good(found, *pair) for pair in names.values()):
        return []
    because = tuple(name for pair in names.values() for name in pair)
    return [
        Consequence("no RSA-OAEP", "no data key can be wrapped to a KEK and opened", "", because)
    ]


def _no_kek(found: Found) -> list[Consequence]:
    names = ("rsa_keys.generate_2048", "rsa_keys.import")
    if any(_good(found, name) for name in names):
        return []
    return [Consequence("no KEKs", "RSA keys are neither made nor taken in (KEY-3)", "", names)]


def _no_protection(found: Found) -> list[Consequence]:
    names = ("attributes.unwrap_honours", "attributes.set_afterwards")
    if any(_good(found, name) for name in names):
        return []
    return [
        Consequence(
            "no protection after unwrap",
            "an unwrapped data key cannot be made sensitive and stay extractable (KEY-12)",
            "",
            names,
        )
    ]


def _crashes(found: Found) -> list[Consequence]:
    """Return the limit of crashes; those of threads without locks are a limit of their own."""
    (rule,) = (rule for rule in LIMITS if rule.name == "crashes")
    because = tuple(
        name
        for name, finding in found.items()
        if finding.status in (Status.CRASHED, Status.HUNG) and name != "life.threads"
    )
    return [Consequence(rule.name, rule.lost, rule.around, because)] if because else []
