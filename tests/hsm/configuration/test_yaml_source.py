"""YAML text that would take long or break the parser is refused."""

from __future__ import annotations

import time

import pytest

from hsm.configuration.yaml_source import (
    MAX_BYTES,
    MAX_DEPTH,
    MAX_VALUES,
    YamlMistakeError,
    read_yaml,
)

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
CHAIN = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 3000))
DEEP_BLOCK = "".join(f"{' ' * n}a:\n" for n in range(600))


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (BOMB, 5, f"more than {MAX_VALUES} values once its aliases are replaced"),
        (CHAIN, None, f"nested more than {MAX_DEPTH} deep"),
        ("a: 1\nb: " + "[" * 3000, 2, f"nested more than {MAX_DEPTH} deep"),
        ("a: 1\nb: " + "[" * 3000 + "]" * 3000, 2, f"nested more than {MAX_DEPTH} deep"),
        ("a: " + "{b: " * 3000, 1, f"nested more than {MAX_DEPTH} deep"),
        (DEEP_BLOCK, MAX_DEPTH, f"nested more than {MAX_DEPTH} deep"),
        ("- " * 3000 + "x", 1, f"nested more than {MAX_DEPTH} deep"),
        ("a: 1\nb: " + "9" * 5000, 2, "a number has 5000 characters"),
        ("a: 1\n" + "9" * 500 + ": b", 2, "a number has 500 characters"),
        ("a: 0x" + "f" * 5000, 1, "a number has 5002 characters"),
        ("a: " + "1:" * 3000 + "1", 1, "a number has 6001 characters"),
        ("a: " + "x" * MAX_BYTES, 1, f"longer than {MAX_BYTES} characters"),
        ("a: 1\nb: 2026-13-45", 2, "'2026-13-45' is not valid for the type that YAML infers"),
        ("a: !!int x", 1, "'x' is not valid for the type that YAML infers"),
        (
            "a: !!python/object/apply:os.system [ls]",
            1,
            "the tag '!!python/object/apply:os.system' is",
        ),
        ("a: !!python/name:os.system", 1, "the tag '!!python/name:os.system' is not taken"),
        ("a: 1\nb: !include x.yaml", 2, "the tag '!include' is not taken; remove it"),
        ("a: &x {b: 1}\nc:\n  <<: *x", 3, r"merge keys \(<<\) are not taken; write the keys"),
        ("a: <<", 1, "'<<' has a meaning of its own in YAML; quote it"),
        ("=: 1", 1, "'=' has a meaning of its own in YAML; quote it"),
        ("a: !!bool x", 1, "'x' is not valid for the type that YAML infers"),
        ("a: !!timestamp x", 1, "'x' is not valid for the type that YAML infers"),
        ("a: &x 1\nb: &x 2", 2, "the anchor &x was given before"),
        ("a: &x [*x]", 1, "an alias contains itself"),
        ("a: &x {b: *x}", 1, "an alias contains itself"),
        ("? [a, b]\n: c", 1, "a key must be a word or a number"),
        ("a: *nothing", 1, r"the alias \*nothing has no anchor"),
        ("%YAML 9.9\n---\na", 1, "incompatible YAML document"),
        ("a: 1\n--- \nb: 2", 2, "a second YAML document begins here"),
        ("", 1, "is empty"),
        ("# a comment", 1, "is empty"),
    ],
    ids=lambda value: value[:16] if isinstance(value, str) else "",
)
def test_yaml_text_that_is_refused(text: str, line: int | None, words: str) -> None:
    started = time.monotonic()
    with pytest.raises(YamlMistakeError, match=words) as caught:
        read_yaml(text)
    if line is not None:
        assert caught.value.line == line
    assert len(caught.value.text) < 300
    assert time.monotonic() - started < 5


def test_yaml_values_have_their_lines() -> None:
    data, lines = read_yaml("a: {b: 1}\nc:\n  - x\n  - y: 2.5\nd: &n [1, 2]\ne: *n\n")
    assert data == {"a": {"b": 1}, "c": ["x", {"y": 2.5}], "d": [1, 2], "e": [1, 2]}
    assert lines["c", 1, "y"] == 4
    assert lines["e",] == 6


def test_yaml_as_deep_and_large_as_the_limits_is_read() -> None:
    deep = MAX_DEPTH - 1
    data, _ = read_yaml("[" * deep + "]" * deep)
    assert isinstance(data, list)
    rows = "- x\n" * (MAX_VALUES - 1)
    data, _ = read_yaml(rows)
    assert isinstance(data, list)
    assert len(data) == MAX_VALUES - 1
