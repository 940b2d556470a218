"""Packets made from the registry's annotations: fixed samples, and hypothesis strategies.

    python -m tests.wire.samples > tests/wire/golden.json

writes the golden bytes anew. Do so only for a new packet, or for a new last field: other bytes
that change would part this version from its older peers.
"""

import json
import sys
from typing import Any, TypeVar, cast

from hypothesis import strategies as st

from p2pmq.core.packets import PACKETS, Packet, Struct
from p2pmq.core.packets.publishing import Batch, Bodies, Death
from p2pmq.wire.bodies import PackedBodies
from p2pmq.wire.codec import encode
from p2pmq.wire.schema import Kind, fields_of

T = TypeVar("T", bound=Packet | Struct)

LEAST = PackedBodies.from_bodies([b"body"])
FULL = PackedBodies.from_bodies(
    [b"", b"\x81\xa1k\xc3", b"\xff" * 300],
    formats=b"\0\1\0",
    headers=[None, {"trace": "a1", "n": [1, -1, 0.5, None, b"\0"]}, {}],
    keys=["é", None, b"\xff"],
)
QUEUE_ALPHABET = st.characters(exclude_categories=["Cc", "Cs"])
ALPHABET = st.characters(exclude_categories=["Cs"])


def least(cls: type[T]) -> T:
    """The shortest packet: required fields only, each at its lower bound."""
    if cls is Batch:
        return cast("T", Batch(b"\1" * 8, 1, 1, 4, LEAST))
    values = {field.name: _low(field.kind) for field in fields_of(cls) if field.required}
    return cls(**values)


def full(cls: type[T]) -> T:
    """A packet with every field set, to something that is not its default."""
    if cls is Batch:
        return cast(
            "T",
            Batch(
                b"\x7f" * 8,
                2**40,
                len(FULL),
                304,
                FULL,
                stamp=2**50,
                ttl_ms=2**42,
                priority=9,
                dead=(Death("stale-replica", "été", "naïve", 2**32 - 1),),
                delay_ms=2**42 - 1,
                keys=b"\xfekeyhash" + bytes(8) + b"\1" * 8,
            ),
        )
    values: dict[str, Any] = {}
    for at, field in enumerate(fields_of(cls)):
        values[field.name] = _high(field.kind, at)
    if "last" in values:
        values["last"] = values["first"] + 9
    if "version_max" in values:
        values["version_max"] = values["version_min"] + 1
    return cls(**values)


def _low(kind: Kind) -> object:
    if kind.item is not None:
        return tuple(_low(kind.item) for _ in range(kind.low))
    if kind.is_struct:
        return least(kind.type)
    return {
        bool: False,
        int: kind.low,
        bytes: b"\1" * kind.low,
        str: "q" * kind.low,
    }[kind.type]


def _high(kind: Kind, at: int) -> object:
    if kind.item is not None:
        return tuple(_high(kind.item, at + item) for item in range(min(kind.high, 2)))
    if kind.is_struct:
        return full(kind.type)
    return {
        bool: True,
        int: min(kind.high - 20 * (kind.high > 100), 1000**at + at),
        bytes: bytes((at + offset) % 256 for offset in range(kind.low)),
        str: f"été-{at}",
    }[kind.type]


def golden() -> dict[str, dict[str, list[str]]]:
    """The bytes of every packet's two samples, in hex, a string a frame."""
    return {
        cls.__name__: {
            "least": [frame.hex() for frame in encode(least(cls))],
            "full": [frame.hex() for frame in encode(full(cls))],
        }
        for _, cls in sorted(PACKETS.items())
    }


# --------------------------------------------------------------------------------------- strategies


def texts(low: int, high: int, alphabet: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Texts whose length in UTF-8 is within bounds."""
    return st.text(alphabet, min_size=low, max_size=high).filter(
        lambda text: low <= len(text.encode()) <= high
    )


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """Batches whose count is that of their bodies."""
    bodies = draw(st.lists(st.binary(max_size=40), min_size=1, max_size=8))
    count = len(bodies)
    formats = draw(st.none() | st.binary(min_size=count, max_size=count))
    header = st.none() | st.dictionaries(st.text(ALPHABET, max_size=5), st.integers(0, 9))
    headers = draw(st.none() | st.lists(header, min_size=count, max_size=count))
    key = st.none() | st.text(ALPHABET, max_size=5) | st.binary(max_size=5)
    keys = draw(st.none() | st.lists(key, min_size=count, max_size=count))
    return Batch(
        session=draw(st.binary(min_size=8, max_size=8)),
        first=draw(st.integers(1, 2**63 - 1 - count)),
        count=count,
        size=sum(map(len, bodies)),
        bodies=PackedBodies.from_bodies(bodies, formats, headers, keys),
        stamp=draw(st.integers(0, 2**64 - 1)),
        keys=draw(st.just(b"") | st.binary(min_size=8 * count, max_size=8 * count)),
    )


@st.composite
def composites(draw: st.DrawFn, cls: type[T]) -> T:
    """Packets or structs of one class, within all bounds and rules."""
    values: dict[str, Any] = {}
    for field in fields_of(cls):
        if not field.required and draw(st.booleans()):
            continue
        if field.is_queue_name:
            strategy: Any = texts(field.kind.low, field.kind.high, QUEUE_ALPHABET)
        else:
            strategy = kinds(field.kind)
        values[field.name] = draw(strategy)
    for low, high in (("first", "last"), ("version_min", "version_max")):
        if high in values:
            values[low], values[high] = sorted((values[low], values[high]))
    return cls(**values)


def kinds(kind: Kind) -> st.SearchStrategy[Any]:
    """Values of one field."""
    if kind.item is not None:
        items = st.lists(kinds(kind.item), min_size=kind.low, max_size=min(kind.high, 4))
        return items.map(tuple)
    if kind.is_struct:
        return batches() if kind.type is Batch else composites(kind.type)
    assert kind.type is not Bodies, "bodies are drawn with their batch"
    if kind.type is bool:
        return st.booleans()
    if kind.type is int:
        return st.integers(kind.low, kind.high)
    if kind.type is bytes:
        return st.binary(min_size=kind.low, max_size=kind.high)
    return texts(kind.low, kind.high, ALPHABET)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(golden(), indent=1) + "\n")
