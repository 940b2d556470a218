"""A queue's W raised at run time: what fewer copies had confirmed is waited for anew."""

from __future__ import annotations

from p2pmq.core.telling import RESEND_MS
from tests.core.copies_world import World
from tests.core.kit import KEY, S1, S2

FOUR = {(S1, seq) for seq in (1, 2, 3, 4)}


def want(w: World, copies: int) -> None:
    """The same declaration reaches every node."""
    for node_id in w.ids:
        w.want(node_id, copies)


def merged() -> World:
    """Homes of which the first has merged with the others, and owns."""
    w = World(3, wanted=1)
    w.publish(S2, 1, w.ids[0])
    w.drain()
    return w


def confirmed_by_one() -> World:
    """Homes of which the first has confirmed four messages alone: their copies were lost."""
    w = merged()
    owner = w.ids[0]
    w.publish(S1, 4, owner)
    w.arrive(0)
    w.write(owner)
    assert w.confirmed >= FOUR
    w.way.clear()
    return w


def test_a_repeat_of_what_fewer_copies_confirmed_waits_for_as_many_as_are_wanted_now() -> None:
    """Once it was confirmed at once, with the number of copies that are wanted now."""
    w = confirmed_by_one()
    owner, second, _ = w.ids
    w.confirmed.clear()
    w.sent[S1] = [(1, 4)]
    want(w, 2)
    w.publish_again(S1, owner)
    w.way = [packet for packet in w.way if owner in packet[:2]]
    w.arrive(len(w.way) - 1)
    assert not w.confirmed
    w.pass_time(RESEND_MS)
    w.drain()
    assert w.confirmed >= FOUR
    assert w.homes[second].on_disk()[1] >= FOUR


def test_what_fewer_copies_confirmed_is_delivered_once_it_has_as_many_as_are_wanted_now() -> None:
    """Every home is merged before and after, so that nothing but the missing copies delays it."""
    w = confirmed_by_one()
    owner, *others = w.ids
    want(w, 2)
    w.attach(owner)
    while any(target == owner for _, target, _ in w.way):
        w.arrive(next(at for at, packet in enumerate(w.way) if packet[1] == owner))
    assert not w.delivered & FOUR
    w.pass_time(RESEND_MS)
    w.drain()
    assert w.delivered >= FOUR
    assert all(w.homes[other].on_disk()[1] >= FOUR for other in others)


def test_what_is_on_enough_disks_already_is_waited_for_no_longer_than_a_comparison() -> None:
    w = merged()
    owner = w.ids[0]
    w.publish(S1, 4, owner)
    w.drain()
    want(w, 3)
    assert w.homes[owner].replication.unproven(KEY, w.homes[owner].partition.pending.runs()[0])
    w.attach(owner)
    w.drain()
    assert w.delivered >= FOUR


def test_lowered_again_nothing_waits_any_more() -> None:
    w = confirmed_by_one()
    owner = w.ids[0]
    want(w, 3)
    want(w, 1)
    w.attach(owner)
    w.arrive(len(w.way) - 1)
    w.take(w.homes[owner], w.homes[owner].owner.on_active(KEY, w.now))
    w.drain()
    assert w.delivered >= FOUR
