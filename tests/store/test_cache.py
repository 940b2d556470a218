"""Bodies in memory: bounded, but for those that lie nowhere else."""

from __future__ import annotations

from p2pmq.core.packets.publishing import Batch
from p2pmq.store.cache import BodiesCache, Segment, whole
from p2pmq.wire.bodies import PackedBodies
from tests.store.scene import batch_of


def segments(size: int = 10_000) -> tuple[Segment, ...]:
    batch: Batch = batch_of(1, 1, size)
    assert isinstance(batch.bodies, PackedBodies)
    return whole(batch.bodies, 1)


def test_the_least_recently_used_goes_first() -> None:
    cache = BodiesCache(65_000)
    for key in (b"a", b"b", b"c"):
        cache.keep(key, segments())
    assert cache.get(b"a")
    cache.keep(b"d", segments())
    assert [key for key in (b"a", b"b", b"c", b"d") if cache.get(key)] == [b"a", b"c", b"d"]
    assert cache.recent_bytes <= 65_000


def test_what_is_not_durable_stays_whatever_it_costs() -> None:
    cache = BodiesCache(0)
    cache.pin(b"a", segments())
    cache.keep(b"b", segments())
    assert cache.get(b"a")
    assert not cache.get(b"b")
    cache.unpin(b"a")
    assert not cache.get(b"a")
    assert cache.recent_bytes == 0


def test_what_is_dropped_costs_nothing() -> None:
    cache = BodiesCache(2**20)
    cache.pin(b"1a", segments())
    for key in (b"1b", b"1c", b"2a"):
        cache.keep(key, segments())
    cache.keep(b"1b", segments())
    cache.drop_prefix(b"1")
    assert [key for key in (b"1a", b"1b", b"1c", b"2a") if cache.get(key)] == [b"2a"]
    cache.drop(b"2a")
    assert cache.recent_bytes == 0
