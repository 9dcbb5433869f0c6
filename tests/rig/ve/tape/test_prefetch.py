"""Prefetch: the same items, produced early, and no thread left."""

import threading
from collections.abc import Iterator

import pytest

from rig.ve.tape.prefetch import prefetched


def test_prefetched_items_keep_their_order() -> None:
    with prefetched(iter(range(100))) as numbers:
        assert list(numbers) == list(range(100))


def test_prefetched_gives_nothing_for_no_items() -> None:
    with prefetched(iter(())) as nothing:
        assert list(nothing) == []


def test_prefetched_item_is_produced_while_one_is_used() -> None:
    second = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        second.set()
        yield 2

    with prefetched(items()) as numbers:
        assert next(numbers) == 1
        assert second.wait(10)
        assert list(numbers) == [2]


def test_prefetched_raises_an_error_in_its_items_place() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise LookupError("no third")

    with prefetched(items()) as numbers:
        assert [next(numbers), next(numbers)] == [1, 2]
        with pytest.raises(LookupError, match="no third"):
            next(numbers)


def test_prefetched_leaves_no_thread_when_its_user_fails() -> None:
    began, ended = threading.Event(), []

    def items() -> Iterator[int]:
        yield 1
        began.set()
        threading.Event().wait(0.2)
        ended.append(True)
        yield 2

    def use() -> None:
        with prefetched(items()) as numbers:
            assert next(numbers) == 1
            assert began.wait(10)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        use()
    assert ended == [True]
