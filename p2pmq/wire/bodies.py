"""Message bodies as one packed blob: columns of bodies, checksums, formats and headers.

A blob is packed once, by the publisher's node, and from then on it is what
travels, what is stored and what is delivered; only a consumer unpacks it, or
whoever needs a part of it.

Layout (msgpack): [bodies: [bin, …], checksums: bin (CRC-32 of each body,
little-endian, 4 bytes each), formats: nil | bin (one byte each), headers: nil |
[nil | map, …], keys: [nil | bin | str, …], left out if no message has one].
Unknown trailing columns are ignored. The CRC of a body starts
from its format, or, where it has a header, from the CRC of the packed header
that started from the format, or, where it has an ordering key, from that of the
packed key that started from there: a bit flipped in any of the four is found, and
for raw bodies without headers and keys it is the plain CRC-32.

Invariant: what is wrong with a blob comes out as BodiesError when it is
unpacked, never otherwise; once that went well, nothing here raises any more.
"""

from __future__ import annotations

import zlib
from array import array
from dataclasses import fields, is_dataclass
from sys import byteorder
from types import NoneType
from typing import Any, cast

from p2pmq.core.packets.publishing import BATCH_MESSAGES_MAX
from p2pmq.errors import NotSerializableError, P2PMQError
from p2pmq.wire.msgpacked import UnpackError, pack, unpack

FORMAT_RAW = 0
"""The body is the user's bytes as they are."""
FORMAT_MSGPACK = 1
"""The body is one msgpack value."""

COLUMNS = 4
"""Those that are always there: `keys` is left out where there are none."""
CHECKSUM_BYTES = 4
NESTING_MAX = 511
"""How deep msgpack packs."""

Headers = list[dict[str, Any] | None]
Keys = list[str | bytes | None]


class BodiesError(P2PMQError):
    """A blob or a body is not what it should be: a peer's fault or the disk's, never a user's."""


class PackedBodies:
    """The bodies of a batch: a blob, or columns to make one of; each made of the other at need.

    Whoever keeps it long keeps `blob` alone, for the unpacked columns stay as well.
    """

    __slots__ = ("_blob", "_bodies", "_checksums", "_formats", "_headers", "_keys")

    def __init__(
        self,
        blob: bytes | None,
        bodies: list[bytes] | None = None,
        formats: bytes | None = None,
        headers: Headers | None = None,
        checksums: bytes | None = None,
        keys: Keys | None = None,
    ) -> None:
        self._blob = blob
        self._bodies = bodies
        self._formats = formats
        self._headers = headers
        self._checksums = checksums
        self._keys = keys

    @classmethod
    def from_blob(cls, blob: bytes) -> PackedBodies:
        """What a blob holds; nothing is unpacked yet."""
        return cls(blob)

    @classmethod
    def from_bodies(
        cls,
        bodies: list[bytes],
        formats: bytes | None = None,
        headers: Headers | None = None,
        keys: Keys | None = None,
    ) -> PackedBodies:
        """Columns of equal length, packed when `blob` is first asked for; all raw: `formats` None.

        The lists are kept, not copied: the caller changes them no more. Headers have passed
        `check_header`.
        """
        assert formats is None or len(formats) == len(bodies)
        assert headers is None or len(headers) == len(bodies)
        assert keys is None or len(keys) == len(bodies)
        return cls(None, bodies, formats, headers, keys=keys)

    @property
    def blob(self) -> bytes:
        """The packed columns, as they travel and are stored."""
        if self._blob is None:
            columns = [self._bodies, self.checksums, self._formats, self._headers]
            self._blob = pack(columns if self._keys is None else [*columns, self._keys])
        return self._blob

    @property
    def bodies(self) -> list[bytes]:
        """The bodies, in order; the list is shared, so leave it as it is. Raises BodiesError."""
        if self._bodies is None:
            self._unpack()
            assert self._bodies is not None
        return self._bodies

    @property
    def checksums(self) -> bytes:
        """The CRC-32s as they came with the blob, or of what was given. Raises BodiesError."""
        if self._checksums is None:
            if self._bodies is None:
                self._unpack()
            if self._checksums is None:
                self._checksums = self._compute_checksums()
        return self._checksums

    @property
    def formats(self) -> bytes | None:
        """One FORMAT_… byte for each body; None: all raw. Raises BodiesError."""
        if self._bodies is None:
            self._unpack()
        return self._formats

    @property
    def headers(self) -> Headers | None:
        """The user's headers of each message; None: no message has any. Raises BodiesError."""
        if self._bodies is None:
            self._unpack()
        return self._headers

    @property
    def keys(self) -> Keys | None:
        """The ordering key of each message; None: no message has one. Raises BodiesError."""
        if self._bodies is None:
            self._unpack()
        return self._keys

    def __len__(self) -> int:
        return len(self.bodies)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PackedBodies) and self.blob == other.blob

    def __hash__(self) -> int:
        return hash(self.blob)

    def __repr__(self) -> str:
        if self._bodies is None:
            return f"<PackedBodies in {len(self._blob or b'')} bytes>"
        return f"<PackedBodies of {len(self._bodies)} messages>"

    def part(self, start: int, stop: int) -> PackedBodies:
        """The bodies at positions start … stop - 1, with the checksums that they came with.

        Raises BodiesError if the blob was never unpacked before and is wrong.
        """
        bodies = self.bodies
        assert 0 <= start < stop <= len(bodies), f"part {start}:{stop} of {len(bodies)} bodies"
        if stop - start == len(bodies):
            return self
        return PackedBodies(
            None,
            bodies[start:stop],
            self._formats and self._formats[start:stop],
            self._headers and self._headers[start:stop],
            self.checksums[start * CHECKSUM_BYTES : stop * CHECKSUM_BYTES],
            self._keys and self._keys[start:stop],
        )

    def verify(self) -> list[int]:
        """The positions whose CRC-32 is wrong. Raises BodiesError."""
        claimed, true = self.checksums, self._compute_checksums()
        if claimed == true:  # one comparison of 4 bytes a message: nearly always all there is
            return []
        size = CHECKSUM_BYTES
        return [
            at
            for at in range(len(self.bodies))
            if claimed[at * size : at * size + size] != true[at * size : at * size + size]
        ]

    def _compute_checksums(self) -> bytes:
        bodies, formats, headers, keys = self.bodies, self._formats, self._headers, self._keys
        if headers is not None or keys is not None:
            starts = list(formats) if formats is not None else [0] * len(bodies)
            for column in (headers, keys):
                for at, value in enumerate(column or ()):
                    if value is not None:
                        starts[at] = zlib.crc32(pack(value), starts[at])
            checksums = array("I", map(zlib.crc32, bodies, starts))
        elif formats is not None:
            checksums = array("I", map(zlib.crc32, bodies, formats))
        else:
            checksums = array("I", map(zlib.crc32, bodies))
        if byteorder == "big":
            checksums.byteswap()
        return checksums.tobytes()

    def _unpack(self) -> None:
        assert self._blob is not None
        try:
            columns = unpack(self._blob)
        except UnpackError as error:
            raise BodiesError(f"a blob of bodies is {error}") from error
        if type(columns) is not list or len(columns) < COLUMNS:
            raise BodiesError("a blob of bodies is not an array of four columns: drop the batch")
        bodies, checksums, formats, headers, *others = columns
        keys = others[0] if others else None
        if type(bodies) is not list or not 1 <= len(bodies) <= BATCH_MESSAGES_MAX:
            raise BodiesError("the column of bodies is none, or too long: drop the batch")
        if set(map(type, bodies)) != {bytes}:
            raise BodiesError("a body is not bin: drop the batch")
        count = len(bodies)
        if type(checksums) is not bytes or len(checksums) != count * CHECKSUM_BYTES:
            raise BodiesError("the checksums are not 4 bytes for each body: drop the batch")
        if formats is not None and (type(formats) is not bytes or len(formats) != count):
            raise BodiesError("the formats are not one byte for each body: drop the batch")
        if headers is not None and not _are_headers(headers, count):
            raise BodiesError("the headers are not one map or nil for each body: drop the batch")
        if keys is not None and not _are_keys(keys, count):
            raise BodiesError("the keys are not one text, bin or nil for each body: drop the batch")
        self._checksums, self._formats = checksums, formats
        self._headers, self._keys = headers, keys
        self._bodies = bodies


def _are_headers(headers: object, count: int) -> bool:
    return (
        type(headers) is list
        and len(headers) == count
        and all(
            header is None or (type(header) is dict and set(map(type, header)) <= {str})
            for header in headers
        )
    )


def _are_keys(keys: object, count: int) -> bool:
    return (
        type(keys) is list and len(keys) == count and set(map(type, keys)) <= {str, bytes, NoneType}
    )


def pack_body(body: object) -> tuple[bytes, int]:
    """A body as bytes, and its FORMAT_…; bytes, bytearray and memoryview go raw.

    Raises NotSerializableError, which names the type of the innermost object at fault.
    """
    if type(body) is bytes:
        return body, FORMAT_RAW
    if isinstance(body, (bytes, bytearray, memoryview)):
        return bytes(body), FORMAT_RAW
    try:
        return pack(body, default=_plain), FORMAT_MSGPACK
    except PACK_ERRORS as error:
        raise NotSerializableError(*_blame(body, error)) from error


def _plain(value: object) -> object:
    """What msgpack does not know: dataclasses and pydantic models as maps of their fields."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    dump = getattr(value, "model_dump", None)
    if callable(dump) and not isinstance(value, type):
        return dump(mode="json")
    raise TypeError(f"can not serialize {type(value).__name__!r} object")


def unpack_body(data: bytes, body_format: int) -> Any:  # noqa: ANN401 - any msgpack value
    """The inverse of `pack_body`: tuples have become lists. Raises BodiesError.

    An array that is the key of a map becomes a tuple, as it was.
    """
    if body_format == FORMAT_RAW:
        return data
    if body_format != FORMAT_MSGPACK:
        raise BodiesError(
            f"body format {body_format} is unknown here: a newer version published it; upgrade"
        )
    try:
        return unpack(data, any_key=True)
    except UnpackError as error:
        if not isinstance(error.__cause__, TypeError):
            raise BodiesError(f"a body is {error}") from error
    try:
        return unpack(data, any_key=True, pairs_hook=_dict_of_pairs)
    except UnpackError as error:
        raise BodiesError(f"a body is {error}") from error


def check_header(header: dict[str, Any]) -> None:
    """Refuse headers that a blob cannot carry, before they are in one. Raises UsageError."""
    for key in header:
        if type(key) is not str:
            raise NotSerializableError(key, "names of headers are str")
    try:
        unpack(pack(header))
    except UnpackError as error:
        raise NotSerializableError(
            header, "maps within headers have str or bytes for keys"
        ) from error
    except PACK_ERRORS as error:
        raise NotSerializableError(*_blame(header, error)) from error


PACK_ERRORS = (TypeError, ValueError, OverflowError, BufferError, RecursionError)


def _blame(body: object, error: Exception) -> tuple[object, str]:
    """The innermost object that cannot be packed, and why."""
    if "recursion" in str(error):  # to look for the bottom would cost a second, or never end
        return body, f"it holds itself, or is nested deeper than {NESTING_MAX}"
    for child in _children(body):
        try:
            pack(child, default=_plain)
        except PACK_ERRORS as child_error:
            return _blame(child, child_error)
    return body, str(error)


def _children(value: object) -> list[object]:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if is_dataclass(value) and not isinstance(value, type):
        return list(cast("dict[str, object]", _plain(value)).values())
    return list(value) if isinstance(value, (list, tuple)) else []


def _dict_of_pairs(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    return {_hashable(key): value for key, value in pairs}


def _hashable(key: object) -> object:
    return tuple(map(_hashable, key)) if isinstance(key, list) else key
