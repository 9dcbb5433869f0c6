"""A data key in a token: a handle, never a value."""

from collections.abc import Callable
from types import TracebackType
from typing import Self

from pkcs11.types import Key

from hsm.errors import TokenError


class DataKey:
    """A data key (DK) inside the token: a handle, no bytes. Destroy it as soon as it was used.

    Works as a context manager that destroys the key on leaving.
    """

    __slots__ = ("_forget", "_key")

    def __init__(self, key: Key, forget: Callable[["DataKey"], None]) -> None:
        """Take over the session object `key`; `forget` is called before it is destroyed."""
        self._forget = forget
        self._key: Key | None = key

    @property
    def handle(self) -> Key:
        """The PKCS#11 object; raises TokenError after destroy()."""
        if self._key is None:
            raise TokenError("This data key has been destroyed.")
        return self._key

    def destroy(self) -> None:
        """Remove the key from the token; a second call does nothing."""
        if self._key is not None:
            key, self._key = self._key, None
            self._forget(self)
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
        """Tell nothing about the key."""
        return "<DataKey>" if self._key is not None else "<DataKey, destroyed>"
