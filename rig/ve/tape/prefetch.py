"""Prefetch: produce the next item while one is used."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def prefetched(items: Iterator[T]) -> Iterator[Iterator[T]]:
    """Yield the same items in order, the next one produced in a thread.

    An error of `items` is raised where its item would have come. At the end of the block the thread
    has ended, whatever ended the block; one item may then have been produced in vain.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as producer:

        def results() -> Iterator[T]:
            pending = producer.submit(_next, items)
            while result := pending.result():
                pending = producer.submit(_next, items)
                yield result[0]

        yield results()


def _next(items: Iterator[T]) -> tuple[T] | None:
    for item in items:
        return (item,)
    return None
