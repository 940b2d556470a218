"""Ordering keys as users give them, checked, with the hash by which the core tells them apart."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

from p2pmq.core.packets.publishing import KEY_HASH_BYTES
from p2pmq.errors import UsageError

if TYPE_CHECKING:
    from typing import Any

Key = str | bytes | None
KeyFor = Callable[["Any"], Key]
KEY_BYTES_MAX = 255


class OrderingKey(NamedTuple):
    """A key as its publisher gave it; `size` is how many bytes it adds to a batch."""

    value: str | bytes
    hash: bytes
    size: int


def ordering_key(key: Key) -> OrderingKey | None:
    """The key, checked; None stays None. A text and the bytes of its UTF-8 are one key.

    Raises UsageError.
    """
    if key is None:
        return None
    if not isinstance(key, (str, bytes)):
        raise UsageError(
            f"key={key!r} is of type {type(key).__name__}: give text or bytes, or None for no key"
        )
    return _checked(key)


@lru_cache(maxsize=4_096)
def _checked(key: str | bytes) -> OrderingKey:
    """Remembered, since keys come again: by type, too, as 'a' is not b'a'."""
    try:
        data = key.encode() if isinstance(key, str) else key
    except UnicodeEncodeError:
        raise UsageError(f"key={key!r} has no UTF-8: give bytes, or other text") from None
    if not 1 <= len(data) <= KEY_BYTES_MAX:
        raise UsageError(
            f"a key of {len(data):,} bytes cannot be: give 1 to {KEY_BYTES_MAX}, or None for no key"
        )
    digest = blake2b(data, digest_size=KEY_HASH_BYTES).digest()
    return OrderingKey(key, digest, len(data) + KEY_HASH_BYTES)


def key_for_each(key: Key | KeyFor) -> Callable[[object], OrderingKey | None] | None:
    """From a body to its key: the same for all, or what the function says. None: no keys.

    Raises UsageError, and so does what it gives back.
    """
    if callable(key):
        return lambda body: ordering_key(key(body))
    checked = ordering_key(key)
    return None if checked is None else lambda _body: checked
