"""The verdict on findings: fit, fit with limits, or unfit.

A token is unfit if it lacks what the rig cannot replace. A limit is something that the rig can
replace, or a weakness that someone with the user's PIN can use. Each limit says what is lost and
what the rig does about it. The verdict is for the token of a key manager, which holds KEKs. Whether
the token could be the secure element of a drive is a result of its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from hsm.pkcs11.accepted_risks import TokenRisk
from hsm.validate.findings import Finding, Status

FindingsByProbe = dict[str, Finding]


class Fitness(StrEnum):
    """The grade of a token."""

    FIT = "fit"
    LIMITED = "fit with limits"
    UNFIT = "unfit"


@dataclass(frozen=True, slots=True)
class Consequence:
    """A reason why a token is unfit, or a limit."""

    name: str
    lost: str
    around: str
    """What the rig or its user does about it; empty if nothing can be done."""
    because: tuple[str, ...]
    """The probes that show it."""
    accept: TokenRisk | None = None
    """The risk that the lab must accept before the rig uses the token."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a token may hold the rig's KEKs."""

    fitness: Fitness
    unfit: tuple[Consequence, ...]
    limits: tuple[Consequence, ...]
    secure_element: tuple[Consequence, ...]
    """Why the token cannot be a drive's secure element; empty when it can."""
    complete: bool = True
    """Whether every probe that the verdict depends on was run and determined."""

    @property
    def accept(self) -> tuple[TokenRisk, ...]:
        """The risks that a lab must accept before the rig uses the token."""
        return tuple(sorted({limit.accept for limit in self.limits if limit.accept}))

    @property
    def sentence(self) -> str:
        """The verdict in one line."""
        named = self.unfit or self.limits
        text = f"{self.fitness.value}{': ' if named else ''}{', '.join(c.name for c in named)}"
        return text if self.complete else f"as far as was tried, {text}"


@dataclass(frozen=True, slots=True)
class GradingRule:
    """A rule: any of these probes with a bad answer has this consequence."""

    name: str
    probes: tuple[str, ...]
    lost: str
    around: str = ""
    when: Callable[[Finding], bool] = lambda finding: finding.status is not Status.GOOD
    accept: TokenRisk | None = None

    def apply(self, findings: FindingsByProbe) -> Consequence | None:
        """Return the consequence if one of the findings is bad."""
        because = tuple(
            name for name in self.probes if name in findings and self.when(findings[name])
        )
        if not because:
            return None
        return Consequence(self.name, self.lost, self.around, because, self.accept)


def _risk(finding: Finding) -> bool:
    return finding.status in (Status.RISK, Status.CRASHED, Status.HUNG)


def _not_good(finding: Finding) -> bool:
    return finding.status not in (
        Status.GOOD,
        Status.NOTE,
        Status.NOT_TRIED,
        Status.NOT_DETERMINED,
    )


UNFIT: Final = (
    GradingRule(
        "label not unique",
        ("declared.label",),
        "the rig finds a token by its label, and another token has the same label",
        when=lambda finding: finding.status is Status.LACKS,
    ),
    GradingRule(
        "no data keys",
        ("data_keys.as_rig", "data_keys.distinct"),
        "no new AES-256 data key can be made in the token (KEY-1)",
    ),
    GradingRule(
        "no certificates",
        ("objects.certificate",),
        "KEKs cannot be stored as certificates in the token (KEY-3)",
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
        "the private half of a KEK does not have the attributes requested",
        when=_risk,
    ),
    GradingRule(
        "damage not detected",
        ("faults.damaged", "faults.cut", "faults.empty", "faults.other_key", "faults.other_hash"),
        "a damaged or foreign EEDK is unwrapped to a wrong data key",
        when=_risk,
    ),
    GradingRule(
        "no recovery",
        ("life.close_all", "life.restart", "life.relogin", "life.removal"),
        "the key manager cannot continue after the token was absent",
        when=_not_good,
    ),
)

LIMITS: Final = (
    GradingRule(
        "no signing key",
        ("rsa_keys.p256",),
        "the token makes no P-256 keys, so it cannot hold the key that signs EEDKs and replies",
        "the key manager's signing key is in a file of mode 0600",
        accept=TokenRisk.SIGNING_KEY_IN_FILE,
    ),
    GradingRule(
        "SHA-1",
        ("oaep.sha256_wrap", "oaep.sha256_unwrap"),
        "data keys are wrapped with OAEP SHA-1, which is not broken but outdated",
        "the rig uses it only where SHA-256 does not work; every EEDK records its hash",
    ),
    GradingRule(
        "untrusted wrapping",
        ("attributes.wrap_with_trusted",),
        "the token wraps a data key to any key: whoever has the user's PIN can extract it",
        "the keystore wraps only to public keys whose hash was enrolled; keep the PIN secret",
        accept=TokenRisk.UNTRUSTED_WRAPPING,
    ),
    GradingRule(
        "weaker unwrap templates",
        ("attacks.weaker_template", "attacks.drop_trusted", "attacks.raw_rsa"),
        "whoever has the user's PIN and an EEDK can extract the data key",
        "keep the PIN secret",
        when=_risk,
    ),
    GradingRule(
        "wraps non-extractable keys",
        (
            "attacks.wrap_kek",
            "attributes.extractable",
            "attacks.set_extractable",
            "attacks.copy_extractable",
        ),
        "whoever has the user's PIN can extract the KEKs",
        "use it in a lab only: nothing but the PIN protects the KEKs",
        when=_risk,
        accept=TokenRisk.HANDS_OUT_KEYS,
    ),
    GradingRule(
        "KEKs decrypt",
        ("attacks.decrypt", "attacks.let_decrypt"),
        "a KEK that must only unwrap can decrypt EEDKs",
        "keep the PIN secret",
        when=_risk,
    ),
    GradingRule(
        "PKCS#1 v1.5",
        ("attacks.pkcs1_oracle",),
        "a KEK unwraps PKCS#1 v1.5 and reveals whether the padding is right (an oracle)",
        "the key manager unwraps only EEDKs that a key manager signed, and only with OAEP",
        when=_risk,
    ),
    GradingRule(
        "user can set TRUSTED",
        ("attacks.trusted_create", "attacks.trusted_set", "attacks.trusted_copy"),
        "TRUSTED protects nothing, since not only the security officer can set it",
        "the keystore wraps only to public keys whose hash was enrolled; keep the PIN secret",
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
        "a data key can get uses that it was made without",
        "keep the PIN secret; a data key exists for one exchange only",
        when=_risk,
    ),
    GradingRule(
        "unwrap template not honoured",
        ("attributes.unwrap_honours",),
        "an unwrapped data key is not protected until the rig has set its attributes",
        "the rig sets SENSITIVE right after the unwrap, reads it back, and destroys a key "
        "that lacks it",
    ),
    GradingRule(
        "length not reported",
        ("faults.tells_length",),
        "the token does not report the length of an unwrapped key",
        "the rig verifies it with two reference keys, made by the security officer at enrolment",
    ),
    GradingRule(
        "no KEK generation",
        ("rsa_keys.generate_2048",),
        "KEKs cannot be made in the token",
        "make them outside and import them",
    ),
    GradingRule(
        "no KEK import",
        ("rsa_keys.import",),
        "KEKs made outside cannot be imported",
        "make them in the token; other sites send certificates",
    ),
    GradingRule(
        "not all key sizes",
        ("rsa_keys.generate_3072", "rsa_keys.generate_4096"),
        "KEKs of 3072 or 4096 bits cannot be made",
        "use another size",
    ),
    GradingRule(
        "short labels",
        ("objects.label_long",),
        "key labels of 64 characters cannot be stored (KEY-5)",
        "use shorter labels",
    ),
    GradingRule(
        "not thread-safe",
        ("life.threads",),
        "two threads in one context do not work reliably",
        "the rig uses one thread in a process",
    ),
    GradingRule(
        "one process only",
        ("life.processes",),
        "a second process does not see the same objects",
        "use one process of the key manager for this token",
    ),
    GradingRule(
        "crashes",
        (),  # any probe: see _crashes()
        "the module crashed, or did not answer",
        "the key manager starts its worker process again",
    ),
)

_SECURE_ELEMENT: Final = (
    GradingRule(
        "no AES-KEY-WRAP",
        ("key_wrap.key_wrap_wrap",),
        "a data key cannot be sealed for the gates (RFC 3394)",
        "use another token as secure element; SoftHSM is the default",
    ),
)


def grade(findings: Sequence[Finding]) -> Verdict:
    """Return the verdict on the findings; probes not run are ignored."""
    by_probe = {finding.probe: finding for finding in findings}
    unfit = [consequence for rule in UNFIT if (consequence := rule.apply(by_probe))]
    unfit += _no_oaep(by_probe) + _no_kek(by_probe) + _no_protection(by_probe)
    limits = [consequence for rule in LIMITS if (consequence := rule.apply(by_probe))]
    limits += _crashes(by_probe)
    element = [consequence for rule in _SECURE_ELEMENT if (consequence := rule.apply(by_probe))]
    fitness = Fitness.UNFIT if unfit else Fitness.LIMITED if limits else Fitness.FIT
    complete = all(
        name in by_probe and by_probe[name].status is not Status.NOT_DETERMINED
        for rule in (*UNFIT, *LIMITS, *_SECURE_ELEMENT)
        for name in rule.probes
    )
    return Verdict(fitness, tuple(unfit), tuple(limits), tuple(element), complete)


def _good(findings: FindingsByProbe, *names: str) -> bool:
    return all(name not in findings or findings[name].status is Status.GOOD for name in names)


def _no_oaep(findings: FindingsByProbe) -> list[Consequence]:
    names = {kind: (f"oaep.{kind}_wrap", f"oaep.{kind}_unwrap") for kind in ("sha256", "sha1")}
    if any(_good(findings, *pair) for pair in names.values()):
        return []
    because = tuple(name for pair in names.values() for name in pair)
    return [
        Consequence("no RSA-OAEP", "no data key can be wrapped to a KEK and unwrapped", "", because)
    ]


def _no_kek(findings: FindingsByProbe) -> list[Consequence]:
    names = ("rsa_keys.generate_2048", "rsa_keys.import")
    if any(_good(findings, name) for name in names):
        return []
    return [Consequence("no KEKs", "RSA keys can be neither made nor imported (KEY-3)", "", names)]


def _no_protection(findings: FindingsByProbe) -> list[Consequence]:
    names = ("attributes.unwrap_honours", "attributes.set_afterwards")
    if any(_good(findings, name) for name in names):
        return []
    return [
        Consequence(
            "no protection after unwrap",
            "an unwrapped data key cannot be both sensitive and extractable (KEY-12)",
            "",
            names,
        )
    ]


def _crashes(findings: FindingsByProbe) -> list[Consequence]:
    """Return the limit for crashes, except those of threads without locking.

    Threads have a limit of their own.
    """
    (rule,) = (rule for rule in LIMITS if rule.name == "crashes")
    because = tuple(
        name
        for name, finding in findings.items()
        if finding.status in (Status.CRASHED, Status.HUNG) and name != "life.threads"
    )
    return [Consequence(rule.name, rule.lost, rule.around, because)] if because else []
