"""Groups leave out what is undone in them; refusals keep `seen` behind the bodies."""

from __future__ import annotations

from p2pmq.core.packets.publishing import Batch
from p2pmq.store.layout import Kept, Meta, batch_key, id_key, meta_of
from p2pmq.store.writes import (
    Group,
    Op,
    PutBatch,
    PutSeen,
    Refusals,
    RemoveBatch,
    Write,
    shrink,
    split,
    worth_shrinking,
)
from p2pmq.wire.bodies import PackedBodies
from tests.store.scene import SESSION, batch_of, body_of

SEEN = id_key(0) + SESSION


def put(number: int, first: int = 1, count: int = 10) -> PutBatch:
    batch = batch_of(first, count)
    assert isinstance(batch.bodies, PackedBodies)
    blob = batch.bodies.blob
    return PutBatch(batch_key(0, number), meta_of(batch, len(blob), 0), blob)


def write(*ops: Op, told: int = 0) -> Write:
    return Write(list(ops), lambda _: None, told)


def trimmed(batch: Batch, *alive: tuple[int, int]) -> tuple[Meta, bytes]:
    assert isinstance(batch.bodies, PackedBodies)
    blob = batch.bodies.blob
    return meta_of(batch, len(blob), 0)._replace(alive=alive), blob


def test_a_group_leaves_out_a_batch_that_it_stores_and_removes() -> None:
    group = Group()
    ops: list[Op] = [put(1), put(2), RemoveBatch(batch_key(0, 1)), RemoveBatch(batch_key(0, 7))]
    for op in ops:
        group.add(write(op))
    assert [op.skip for op in ops] == [True, False, True, False]


def test_a_group_writes_the_last_seen_of_a_session_only() -> None:
    group = Group()
    others = PutSeen(id_key(1) + SESSION, ((1, 1),))
    ops = [PutSeen(SEEN, ((1, 1),)), others, PutSeen(SEEN, ((1, 2),)), PutSeen(SEEN, ((1, 3),))]
    for op in ops:
        group.add(write(op))
    assert [op.skip for op in ops] == [True, False, True, False]


def test_refused_dots_are_taken_out_of_claims_made_before_the_core_was_told() -> None:
    refusals = Refusals()
    refusals.refuse(write(put(1, 11, 10)))
    assert refusals.without(SEEN, ((1, 30),), told=0) == ((1, 10), (21, 30))
    assert refusals.without(SEEN, ((1, 30),), told=1) == ((1, 30),)
    assert refusals.without(id_key(1) + SESSION, ((1, 30),), told=0) == ((1, 30),)


def test_a_refused_batch_that_is_removed_may_count_as_seen() -> None:
    refusals = Refusals()
    refusals.refuse(write(put(1, 11, 10)))
    refusals.settle(batch_key(0, 2))
    assert refusals
    refusals.settle(batch_key(0, 1))
    assert not refusals
    assert refusals.without(SEEN, ((1, 30),), told=0) == ((1, 30),)


def test_refusals_are_forgotten_once_the_core_knows_of_them() -> None:
    refusals = Refusals()
    refusals.refuse(write(put(1, 11, 10)))
    refusals.refuse(write(put(2, 21, 10)))
    refusals.forget(1)
    assert refusals.without(SEEN, ((1, 30),), told=0) == ((1, 20),)
    refusals.forget(2)
    assert not refusals


def test_only_a_large_batch_that_is_mostly_dead_is_worth_rewriting() -> None:
    large, small = batch_of(1, 100, 1000), batch_of(1, 100, 100)
    assert worth_shrinking(trimmed(large, (1, 24))[0])
    assert not worth_shrinking(trimmed(large, (1, 25))[0])
    assert not worth_shrinking(trimmed(small, (1, 1))[0])
    assert not worth_shrinking(trimmed(large)[0]._replace(alive=None))


def test_a_batch_can_be_rewritten_again_and_again() -> None:
    meta, blob = trimmed(batch_of(101, 100), (101, 110), (150, 150))
    shrunk = shrink(meta, blob)
    assert shrunk is not None
    meta, blob = shrunk
    assert [part[:2] for part in meta.kept] == [(0, 10), (49, 50)]
    shrunk = shrink(meta._replace(alive=((103, 104), (107, 107), (150, 150))), blob)
    assert shrunk is not None
    bodies = [body for _, part in split(*shrunk) for body in part.bodies]
    assert bodies == [body_of(seq) for seq in (103, 104, 107, 150)]
    assert [part[:2] for part in shrunk[0].kept] == [(2, 4), (6, 7), (49, 50)]


def test_a_damaged_batch_is_not_rewritten() -> None:
    meta, blob = trimmed(batch_of(1, 100), (1, 1))
    assert shrink(meta, b"\xc1" + blob[1:]) is None
    assert shrink(meta._replace(alive=((1, 1),), kept=(Kept(50, 60, len(blob)),)), blob) is None
