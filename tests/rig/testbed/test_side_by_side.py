"""Contexts that end at the same time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from rig.testbed.side_by_side import SideBySide
from tests.support.waiting import PATIENCE_SECONDS


@contextmanager
def part(name: str, ended: list[str], *, fails: bool = False) -> Iterator[str]:
    yield name
    ended.append(name)
    if fails:
        raise OSError(name)


def test_side_by_side_ends_its_contexts_at_the_same_time() -> None:
    both_end = threading.Barrier(2)

    @contextmanager
    def waits_for_the_other() -> Iterator[None]:
        yield
        both_end.wait(PATIENCE_SECONDS)

    with SideBySide() as parts:
        parts.enter_context(waits_for_the_other())
        parts.enter_context(waits_for_the_other())


def test_side_by_side_ends_all_when_one_fails_to_end() -> None:
    ended: list[str] = []
    parts = SideBySide()
    assert parts.enter_context(part("board", ended, fails=True)) == "board"
    parts.enter_context(part("key manager", ended))
    with pytest.raises(OSError, match="board"):
        parts.__exit__()
    assert sorted(ended) == ["board", "key manager"]


def test_side_by_side_ends_what_was_entered_before_an_error() -> None:
    ended: list[str] = []

    def fail() -> None:
        with SideBySide() as parts:
            parts.enter_context(part("board", ended))
            raise ValueError("later")

    with pytest.raises(ValueError, match="later"):
        fail()
    assert ended == ["board"]
