"""Ids of users: what a marker remembers, and when an owner takes a message for a repeat."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from p2pmq.core.dedup import NO_ID, KnownIds, marker_of, twin
from p2pmq.core.effects import Deduplicated, Effect, Notify
from p2pmq.core.events import BatchDurable
from p2pmq.core.ids import Run
from p2pmq.core.packets.delivering import Delivery
from p2pmq.core.packets.publishing import ID_HASH_BYTES, Batch, Confirm, Publish
from tests.core.kit import KEY, S1, S2, A, batch_of, dots_of, packets, writes
from tests.core.test_owner import Rig, kinds, pushed

X, Y, Z = (bytes([letter]) * ID_HASH_BYTES for letter in b"xyz")


def with_ids(session: bytes, first: int, *ids: bytes) -> Batch:
    return replace(batch_of(session, first, len(ids)), ids=b"".join(ids))


def publish(rig: Rig, batch: Batch) -> list[Effect]:
    return rig.owner.on_publish(A, Publish(*KEY, 0, batch), rig.now)


def deduplicated(effects: list[Effect]) -> set[tuple[bytes, int]]:
    notices = [effect.notice for effect in effects if isinstance(effect, Notify)]
    return dots_of(run for n in notices if isinstance(n, Deduplicated) for run in n.runs)


def test_a_marker_and_its_messages_lead_to_each_other() -> None:
    batch = with_ids(S1, 5, X, Y)
    marker = marker_of(batch, 1_000)
    assert marker is not None
    assert (marker.run, marker.ids, marker.ttl_ms) == (Run(twin(S1), 5, 6), X + Y, 1_000)
    assert twin(twin(S1)) == S1
    assert marker_of(batch_of(S1, 1, 1), 1_000) is None
    assert marker_of(with_ids(S1, 1, NO_ID), 1_000) is None


def test_a_part_of_a_marker_goes_to_other_nodes_with_the_ids_of_that_part_alone() -> None:
    rig = Rig()
    rig.write(publish(rig, with_ids(S1, 1, X, Y, Z)))
    partition = rig.owner.partition(KEY)
    part = Run(twin(S1), 2, 3)
    ((_, number),) = partition.pending.overlap(part)
    assert partition.batch(part, number).ids == Y + Z


def test_the_first_is_delivered_and_of_its_repeats_only_the_new_part() -> None:
    rig = Rig()
    rig.attach()
    rig.write(publish(rig, with_ids(S1, 1, X, Y)))
    effects = publish(rig, with_ids(S2, 1, Y, Z, NO_ID))
    assert deduplicated(effects) == {(S2, 1)}
    assert kinds(effects) == [Confirm]
    after = rig.write(effects)
    assert pushed(after) == {(S2, 2), (S2, 3)}
    assert rig.owner.partitions[KEY].waiting == 4


def test_a_repeat_of_what_is_not_committed_is_not_answered_until_that_is() -> None:
    rig = Rig()
    first = publish(rig, with_ids(S1, 1, X))
    assert publish(rig, with_ids(S2, 1, X)) == []
    rig.write(first)
    assert deduplicated(publish(rig, with_ids(S2, 1, X))) == {(S2, 1)}


def test_a_message_that_a_full_disk_refused_leaves_its_id_to_others() -> None:
    rig = Rig()
    (write,) = writes(publish(rig, with_ids(S1, 1, X)))
    assert isinstance(write.then, BatchDurable)
    rig.owner.on_batch_refused(write.then)
    assert not len(rig.owner.partitions[KEY].traces.known_ids)
    rig.attach()
    assert pushed(rig.write(publish(rig, with_ids(S2, 1, X)))) == {(S2, 1)}


def test_ids_are_known_after_a_restart_and_forgotten_when_their_window_is_over() -> None:
    rig = Rig()
    rig.write(publish(rig, with_ids(S1, 1, X)))
    rig.start()
    assert deduplicated(publish(rig, with_ids(S2, 1, X))) == {(S2, 1)}
    rig.now += 200_000
    rig.owner.clock.now = rig.now
    rig.write(rig.owner.on_timeout(rig.now))
    assert not len(rig.owner.partitions[KEY].traces.known_ids)
    assert rig.owner.partitions[KEY].waiting == 1
    assert deduplicated(publish(rig, with_ids(S2, 2, X))) == set()


def test_nobody_is_given_a_marker() -> None:
    rig = Rig()
    rig.write(publish(rig, with_ids(S1, 1, X)))
    rig.start()
    rig.attach()
    rig.now += 5_000
    found = packets(rig.owner.on_timeout(rig.now))
    (delivery,) = [packet for packet in found if isinstance(packet, Delivery)]
    assert [segment.batch.session for segment in delivery.segments] == [S1]


@given(st.lists(st.tuples(st.sampled_from((X, Y, Z, NO_ID)), st.booleans()), max_size=30))
def test_an_id_is_known_while_the_last_marker_with_it_is_there(
    steps: list[tuple[bytes, bool]],
) -> None:
    known = KnownIds()
    there: dict[int, bytes] = {}
    for seq, (hashed, drops_oldest) in enumerate(steps, 1):
        known.add(Run(twin(S1), seq, seq), hashed)
        there[seq] = hashed
        if drops_oldest:
            oldest = next(iter(there))
            known.drop(Run(twin(S1), oldest, oldest), there.pop(oldest))
        last = {h: at for at, h in there.items() if h != NO_ID}
        for wanted in (X, Y, Z):
            found = known.first_of(with_ids(S2, 1, wanted))
            expected = (
                [(Run(S2, 1, 1), Run(S1, last[wanted], last[wanted]))] if wanted in last else []
            )
            assert found == expected
