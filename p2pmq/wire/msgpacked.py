"""One msgpack value at a time, out of bytes that anybody may have written.

A hostile array header claims far more items than follow, nested a thousand
deep, and the decoder sets room aside at each before it finds out: 5 KB cost
20 ms and 33 MB (msgpack 1.2). So what is not tiny is walked first, without
building anything, at 10 µs for the same 5 KB: then every claim is true, and
time and memory are bounded by the length.

Invariant: only UnpackError comes out of bad bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgpack

from p2pmq.errors import P2PMQError

if TYPE_CHECKING:
    from collections.abc import Callable

WALK_FIRST_BYTES = 256
"""Below this the claims of 50 nested arrays cost less than to walk first would."""


class UnpackError(P2PMQError):
    """Bytes are not one msgpack value. A peer's fault or the disk's, which no user ever sees."""


def pack(value: object, default: Callable[[object], object] | None = None) -> bytes:
    """The value in msgpack's shortest form, floats in 64 bits: same value, same bytes.

    `default` makes something else of what msgpack does not know. Raises what
    msgpack raises; a caller passes only what it knows to be packable.
    """
    return bytes(msgpack.packb(value, use_bin_type=True, default=default))


def unpack(
    data: bytes,
    *,
    any_key: bool = False,
    pairs_hook: Callable[[list[tuple[Any, Any]]], object] | None = None,
) -> Any:  # noqa: ANN401 - it is the caller who checks the types
    """The one value in `data`; map keys are str or bytes unless `any_key`. Raises UnpackError.

    Text must be strict UTF-8. `pairs_hook` makes something of a map's items (slow).
    """
    try:
        if len(data) > WALK_FIRST_BYTES:
            walker = msgpack.Unpacker(max_buffer_size=len(data))
            walker.feed(data)
            walker.skip()
        return msgpack.unpackb(data, strict_map_key=not any_key, object_pairs_hook=pairs_hook)
    except (
        ValueError,  # most of it, bad UTF-8 and nesting too deep among it
        TypeError,  # a map or an array as the key of a map
        OverflowError,  # a timestamp beyond all years
        RecursionError,
        msgpack.UnpackException,
    ) as error:
        raise UnpackError(f"not one msgpack value ({error}): drop it") from error
