"""The verdict: each grading rule, alone and combined."""

from __future__ import annotations

import pytest

from hsm.validate.findings import Finding, ProbeAnswer, Status
from hsm.validate.probes import PROBES
from hsm.validate.verdict import LIMITS, UNFIT, Fitness, GradingRule, grade

ALL_GOOD = dict.fromkeys(PROBES, Status.GOOD)


def _findings(changed: dict[str, Status]) -> list[Finding]:
    statuses = {**ALL_GOOD, **changed}
    return [
        Finding(name, PROBES[name].asks, ProbeAnswer(s, "does so")) for name, s in statuses.items()
    ]


def test_grade_is_fit_when_all_is_good() -> None:
    verdict = grade(_findings({}))
    assert verdict.fitness is Fitness.FIT
    assert verdict.sentence == "fit"
    assert (verdict.unfit, verdict.limits, verdict.secure_element) == ((), (), ())


def test_grade_ignores_probes_that_were_not_run() -> None:
    assert grade([]).sentence == "as far as was tried, fit"


def test_verdict_is_incomplete_without_one_of_its_probes() -> None:
    findings = [each for each in _findings({}) if each.probe != "objects.label_long"]
    assert not grade(findings).complete
    assert grade(_findings({})).complete


@pytest.mark.parametrize("rule", [*UNFIT, *LIMITS], ids=lambda rule: rule.name)
def test_grading_rule_applies_for_each_of_its_probes(rule: GradingRule) -> None:
    worst = {name: _worst(rule, name) for name in rule.probes}
    for name, status in worst.items():
        verdict = grade(_findings({name: status}))
        named = verdict.unfit if rule in UNFIT else verdict.limits
        (consequence,) = (each for each in named if each.name == rule.name)
        assert consequence.because == (name,)
        expected = Fitness.UNFIT if rule in UNFIT else Fitness.LIMITED
        assert verdict.fitness is expected
        assert rule.name in verdict.sentence


def _worst(rule: GradingRule, name: str) -> Status:
    """Return a status for which the rule applies."""
    for status in (Status.LACKS, Status.RISK):
        if rule.when(Finding(name, "", ProbeAnswer(status, "does so"))):
            return status
    raise AssertionError(f"{rule.name} cannot be broken by {name}")


@pytest.mark.parametrize(
    ("broken", "names"),
    [
        (["oaep.sha256_wrap", "oaep.sha1_unwrap"], {"no RSA-OAEP"}),
        (["rsa_keys.generate_2048", "rsa_keys.import"], {"no KEKs"}),
        (
            ["attributes.unwrap_honours", "attributes.set_afterwards"],
            {"no protection after unwrap"},
        ),
    ],
)
def test_grade_is_unfit_when_both_alternatives_fail(broken: list[str], names: set[str]) -> None:
    for one in broken:
        assert grade(_findings({one: Status.LACKS})).fitness is not Fitness.UNFIT
    verdict = grade(_findings(dict.fromkeys(broken, Status.LACKS)))
    assert verdict.fitness is Fitness.UNFIT
    assert names <= {each.name for each in verdict.unfit}


@pytest.mark.parametrize("status", [Status.CRASHED, Status.HUNG])
def test_grade_counts_a_crash_as_a_limit(status: Status) -> None:
    verdict = grade(_findings({"oaep.sha384_wrap": status}))
    (limit,) = verdict.limits
    assert (limit.name, limit.because) == ("crashes", ("oaep.sha384_wrap",))


def test_grade_reports_fitness_as_a_secure_element() -> None:
    verdict = grade(_findings({"key_wrap.key_wrap_wrap": Status.LACKS}))
    assert verdict.fitness is Fitness.FIT
    assert [each.name for each in verdict.secure_element] == ["no AES-KEY-WRAP"]


def test_grading_rules_name_existing_probes() -> None:
    for rule in (*UNFIT, *LIMITS):
        assert set(rule.probes) <= set(PROBES), rule.name
