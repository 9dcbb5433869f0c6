"""Contexts that end at the same time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, Self, TypeVar

T = TypeVar("T")


class SideBySide:
    """Contexts of processes, which take a while to end, so all end at once."""

    def __init__(self) -> None:
        """Begin with none."""
        self._contexts: list[AbstractContextManager[Any]] = []

    def enter_context(self, context: AbstractContextManager[T]) -> T:
        """Enter a context; it ends with the others."""
        value = context.__enter__()
        self._contexts.append(context)
        return value

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def __exit__(self, *error: object) -> None:
        """End all contexts; then raise the error of the first that failed."""
        with ThreadPoolExecutor(max(1, len(self._contexts)), "close") as closing:
            ended = [closing.submit(each.__exit__, None, None, None) for each in self._contexts]
        for each in ended:
            each.result()
