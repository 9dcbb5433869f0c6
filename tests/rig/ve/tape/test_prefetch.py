"""Working ahead: the same items, made early, and nothing left running."""

import threading
from collections.abc import Iterator

import pytest

from rig.ve.tape.prefetch import prefetched


def test_same_items_in_the_same_order() -> None:
    with prefetched(iter(range(100))) as numbers:
        assert list(numbers) == list(range(100))


def test_nothing_comes_of_nothing() -> None:
    with prefetched(iter(())) as nothing:
        assert list(nothing) == []


def test_next_item_is_made_while_one_is_being_used() -> None:
    second = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        second.set()
        yield 2

    with prefetched(items()) as numbers:
        assert next(numbers) == 1
        assert second.wait(10)
        assert list(numbers) == [2]


def test_what_an_item_raises_comes_in_its_place() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise LookupError("no third")

    with prefetched(items()) as numbers:
        assert [next(numbers), next(numbers)] == [1, 2]
        with pytest.raises(LookupError, match="no third"):
            next(numbers)


def test_nothing_is_left_running_when_the_user_fails() -> None:
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
