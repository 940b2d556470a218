"""Whatever bytes come, decode gives a sound packet or a PacketError, at a bounded cost.

Most mutated frames get right checksums, so that they reach the checks behind these. The mutations
are the same at every run; a failure prints the frames that it takes to repeat it.
"""

import random
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from p2pmq.core.packets import PACKETS, Packet
from p2pmq.core.packets.delivering import Delivery, Handover
from p2pmq.core.packets.publishing import Batch, Publish
from p2pmq.wire.bodies import BodiesError, PackedBodies
from p2pmq.wire.codec import CHECKSUM_BYTES, decode, encode
from p2pmq.wire.errors import PacketError
from tests.wire.headers import header_of, with_crc
from tests.wire.samples import full, least

SENT = [encode(sample(cls)) for cls in PACKETS.values() for sample in (least, full)]
SAMPLES = [[header_of(header), *bodies] for header, *bodies in SENT]
"""The frames without the CRCs of the headers."""
ODD_VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 255, 2**16, 2**32, 2**63 - 1, 2**63, 2**64 - 1, -(2**63)),
    *(0.0, 1.0, float("nan"), float("inf"), "", "a", "a\nb", "é" * 200, "x" * 5000),
    *(b"", b"\0" * 8, b"\1" * 7, b"\xff" * 5000, [], [[]], [None] * 20, {}, {"a": 1}, {1: 2}),
    *(msgpack.ExtType(7, b"\0" * 8), msgpack.Timestamp(2**40, 5)),
]

Mutation = Callable[[random.Random, list[bytes]], list[bytes]]


def flip_bits(rng: random.Random, frames: list[bytes]) -> list[bytes]:
    at = rng.randrange(len(frames))
    frame = bytearray(frames[at])
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        frame[rng.randrange(len(frame))] ^= 1 << rng.randrange(8)
    return [*frames[:at], bytes(frame), *frames[at + 1 :]]


def cut_or_repeat(rng: random.Random, frames: list[bytes]) -> list[bytes]:
    at = rng.randrange(len(frames))
    frame = frames[at]
    start, stop = sorted(rng.randrange(len(frame) + 1) for _ in range(2))
    made = rng.choice(
        (
            frame[:start],
            frame[start:],
            frame[:start] + frame[stop:],
            frame[:stop] + frame[start:],
            frame[:start] + frame[start:stop] * 20 + frame[stop:],
        )
    )
    return [*frames[:at], made, *frames[at + 1 :]]


def splice(rng: random.Random, frames: list[bytes]) -> list[bytes]:
    at, other = rng.randrange(len(frames)), rng.choice(rng.choice(SAMPLES))
    frame = frames[at]
    cut, other_cut = rng.randrange(len(frame) + 1), rng.randrange(len(other) + 1)
    return [*frames[:at], frame[:cut] + other[other_cut:], *frames[at + 1 :]]


def swap_a_value(rng: random.Random, frames: list[bytes]) -> list[bytes]:
    at = rng.randrange(len(frames))
    root = [msgpack.unpackb(frames[at], strict_map_key=False)]
    parent, key = root, 0
    while isinstance(parent[key], list) and parent[key] and rng.random() < 0.8:
        parent = parent[key]
        key = rng.randrange(len(parent))
    match rng.randrange(4):
        case 0:
            parent[key] = rng.choice(ODD_VALUES)
        case 1:
            parent[key] = [parent[key]] * rng.choice((0, 1, 2, 50))
        case 2:
            parent.insert(key, rng.choice(ODD_VALUES))
        case _:
            del parent[key]
    return [*frames[:at], msgpack.packb(root[0] if root else None), *frames[at + 1 :]]


def nest(rng: random.Random, frames: list[bytes]) -> list[bytes]:
    at = rng.randrange(len(frames))
    frame, cut = frames[at], rng.randrange(len(frames[at]))
    deep = rng.choice(
        (b"\x91", b"\x81\x01", b"\xdc\xff\xff", b"\xdd\xff\xff\xff\xff")
    ) * rng.choice((3, 60, 1500))
    return [*frames[:at], frame[:cut] + deep + frame[cut:], *frames[at + 1 :]]


def claim_a_huge_length(rng: random.Random, frames: list[bytes]) -> list[bytes]:
    at = rng.randrange(len(frames))
    frame, cut = frames[at], rng.randrange(len(frames[at]))
    claim = rng.choice((b"\xdd", b"\xdf", b"\xc6", b"\xdb", b"\xc9")) + b"\xff\xff\xff\xff"
    return [*frames[:at], frame[:cut] + claim + frame[cut + rng.randrange(6) :], *frames[at + 1 :]]


def change_the_frames(rng: random.Random, frames: list[bytes]) -> list[bytes]:
    return rng.choice(
        (
            frames[1:],
            frames[:-1],
            frames + frames,
            [*frames, b""],
            frames[::-1],
            [frames[0], *rng.choice(SAMPLES)[1:]],
            [rng.choice(SAMPLES)[0], *frames[1:]],
            [frames[0], rng.randbytes(rng.randrange(50))],
        )
    )


MUTATIONS: list[Mutation] = [
    flip_bits,
    cut_or_repeat,
    splice,
    swap_a_value,
    nest,
    claim_a_huge_length,
    change_the_frames,
]


def mutate(rng: random.Random, frames: list[bytes]) -> list[bytes]:
    """One or two mutations; the second may find nothing to take hold of."""
    for _ in range(rng.choice((1, 1, 2))):
        if frames and all(frames):
            try:
                frames = rng.choice(MUTATIONS)(rng, frames)
            except (ValueError, TypeError, msgpack.UnpackException):
                break  # a second mutation by value wants frames that are msgpack still
    return frames


def mended(rng: random.Random, frames: list[bytes]) -> list[bytes]:
    """The frames with a right CRC behind the header, and mostly with those of the bodies right."""
    return [
        with_crc(frame) if at == 0 else with_crcs_of_bodies(frame) if rng.random() < 0.8 else frame
        for at, frame in enumerate(frames)
    ]


def with_crcs_of_bodies(blob: bytes) -> bytes:
    try:
        wrong = PackedBodies.from_blob(blob)
        right = PackedBodies.from_bodies(wrong.bodies, wrong.formats, wrong.headers, wrong.keys)
    except BodiesError:
        return blob
    columns = msgpack.unpackb(blob, strict_map_key=False)
    made: bytes = msgpack.packb([columns[0], right.checksums, *columns[2:]])
    return made


def batches_of(packet: Packet) -> list[Batch]:
    match packet:
        case Publish(batch=batch):
            return [batch]
        case Delivery(segments=segments):
            return [segment.batch for segment in segments]
        case Handover(batches=batches):
            return list(batches)
    return []


def assert_sound(packet: Packet) -> None:
    """What the core relies on: it can be sent on, and any part of a batch can be taken."""
    assert decode(encode(packet)) == packet
    for batch in batches_of(packet):
        batch.part(batch.first, batch.first)
        batch.part(batch.last, batch.last)


@pytest.mark.parametrize("seed", range(20))
def test_only_a_packet_error_ever_comes_out(seed: int) -> None:
    rng = random.Random(seed)
    taken = refused = 0
    for _ in range(8_500):
        frames = mended(rng, mutate(rng, rng.choice(SAMPLES)))
        try:
            packet = decode(frames)
        except PacketError:
            refused += 1
        except Exception as error:  # noqa: BLE001 - to show what it was that came out, and whence
            pytest.fail(f"{error!r} from {[frame.hex() for frame in frames]}")
        else:
            taken += 1
            assert_sound(packet)
    assert taken > 500, "the mutations are too wild to reach the checks of fields"
    assert refused > 4_000


@pytest.mark.parametrize("seed", range(4))
def test_what_was_changed_under_way_is_refused_whatever_it_is_now(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(5_000):
        header, *bodies = rng.choice(SENT)
        mutation = rng.choice([one for one in MUTATIONS if one is not change_the_frames])
        (changed,) = mutation(rng, [header_of(header)])
        if changed != header_of(header):
            with pytest.raises(PacketError) as caught:
                decode([changed + header[-CHECKSUM_BYTES:], *bodies])
            assert caught.value.reason == "checksum"
        flipped = flip_bits(rng, [header, *bodies])
        if flipped != [header, *bodies]:
            with pytest.raises(PacketError):
                decode(flipped)


@pytest.mark.parametrize(
    "claim", [b"\xdd\x00\x00\x10\x00", b"\xdd\x00\x00\xff\xff", b"\xdc\x10\x00"]
)
@pytest.mark.parametrize("length", [5_000, 200_000])
@pytest.mark.parametrize("frame", [0, 1])
def test_nested_claims_of_huge_arrays_cost_no_more_than_their_bytes(
    claim: bytes, length: int, frame: int
) -> None:
    packet = encode(least(Publish))
    hostile = (b"\x94" + claim * 900).ljust(length, b"\xc0")
    packet[frame] = hostile if frame else with_crc(hostile)
    tracemalloc.start()
    try:
        with pytest.raises(PacketError):
            decode(packet)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000 + 8 * length, "30 MB without the walk of msgpacked.unpack"
