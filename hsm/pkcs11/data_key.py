"""A data key in a token: a handle, never a value."""

from collections.abc import Callable
from types import TracebackType
from typing import Self

from pkcs11.types import Key

from hsm.errors import TokenError


class DataKey:
    """A data key (DK) inside the token: a handle, never its value.

    Destroy it right after use; as a context manager it destroys itself at the end.
    """

    __slots__ = ("_key", "_on_destroy")

    def __init__(self, key: Key, on_destroy: Callable[["DataKey"], None]) -> None:
        """Own the session object `key`.

        `on_destroy` is called before the key is destroyed.
        """
        self._on_destroy = on_destroy
        self._key: Key | None = key

    @property
    def handle(self) -> Key:
        """The PKCS#11 object; raises TokenError after destroy()."""
        if self._key is None:
            raise TokenError("This data key has been destroyed and cannot be used.")
        return self._key

    def destroy(self) -> None:
        """Destroy the key in the token; a second call does nothing."""
        if self._key is not None:
            key, self._key = self._key, None
            self._on_destroy(self)
            key.destroy()

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Destroy the key."""
        self.destroy()

    def __repr__(self) -> str:
        """Return a text without any property of the key."""
        return "<DataKey>" if self._key is not None else "<DataKey, destroyed>"
