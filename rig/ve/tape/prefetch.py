"""Prefetch: produce the next item while one is used."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def ahead(items: Iterator[T]) -> Iterator[Iterator[T]]:
    """Yield the same items in order, the next one produced in a thread.

    What making an item raises comes where that item would have come.  At the end of the block
    nothing is being made any more, whatever ended it; one item may then have been made for nobody.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as maker:

        def taken() -> Iterator[T]:
            making = maker.submit(_next, items)
            while made := making.result():
                making = maker.submit(_next, items)
                yield made[0]

        yield taken()


def _next(items: Iterator[T]) -> tuple[T] | None:
    for item in items:
        return (item,)
    return None
