"""A flipped bit between the bodies: the blob is unreadable, and mended."""

import random

import pytest

from p2pmq.wire.bodies import BodiesError, PackedBodies
from p2pmq.wire.mend import mend


def flipped(blob: bytes, at: int, bit: int) -> bytes:
    damaged = bytearray(blob)
    damaged[at] ^= 1 << bit
    return bytes(damaged)


@pytest.mark.parametrize(
    "sizes",
    [[5], [0, 0, 0], [20, 300, 0, 7], [40] * 20, [70_000, 3]],
    ids=["one", "empty", "mixed", "many", "large"],
)
@pytest.mark.parametrize("formats", [False, True])
def test_one_flipped_bit_anywhere_costs_at_most_one_message(
    sizes: list[int], formats: bool
) -> None:
    rng = random.Random(len(sizes))
    bodies = [rng.randbytes(size) for size in sizes]
    blob = PackedBodies.from_bodies(bodies, bytes([1] * len(sizes)) if formats else None).blob
    places = (
        range(len(blob)) if len(blob) < 1000 else [*range(10), *range(len(blob) - 40, len(blob))]
    )
    for at in places:
        damaged = flipped(blob, at, rng.randrange(8))
        packed: PackedBodies | None = PackedBodies.from_blob(damaged)
        assert packed is not None
        try:
            bad = packed.verify()
        except BodiesError:
            packed = mend(damaged)
            assert packed is not None, f"byte {at} of {damaged.hex()}"
            bad = packed.verify()
        assert len(bad) <= 1
        assert all(packed.bodies[i] == bodies[i] for i in range(len(sizes)) if i not in bad)


def test_a_broken_header_is_mended_too() -> None:
    blob = PackedBodies.from_bodies([b"a", b"b"], None, [{"trace": "abcd"}, None]).blob
    damaged = flipped(blob, blob.index(b"trace") - 1, 3)
    mended = mend(damaged)
    assert mended is not None
    assert mended.blob == blob


@pytest.mark.parametrize("length", [0, 1, 2, 5, 3000])
def test_what_was_never_a_blob_is_given_up(length: int) -> None:
    assert mend(random.Random(length).randbytes(length)) is None
    assert mend(bytes(length)) is None


def test_a_torn_blob_is_given_up() -> None:
    blob = PackedBodies.from_bodies([b"x" * 50] * 30).blob
    assert mend(blob[:700]) is None
