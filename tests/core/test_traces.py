"""Traces: what is left beside a batch, and the order of the copies."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from p2pmq.core.dedup import twin
from p2pmq.core.ids import Run
from p2pmq.core.packets.publishing import ID_HASH_BYTES
from p2pmq.core.partition import Stored
from p2pmq.core.traces import Kept, Place, Traces, copied, traces_of
from tests.core.kit import S1, S2, batch_of


def copy(number: int, session: bytes, first: int, stamp: int, size: int = 10) -> Stored:
    return Stored(number, session, first, first, size, stamp, alive=1, retained=True)


def test_a_batch_leaves_what_is_kept_and_each_trace_leads_to_it() -> None:
    batch = replace(batch_of(S1, 3, 2), ids=bytes(ID_HASH_BYTES) + b"x" * ID_HASH_BYTES)
    assert traces_of(batch, Kept()) == []
    marker, kept = traces_of(batch, Kept(1_000, 2_000))
    assert (marker.run, marker.ids, marker.size) == (Run(twin(S1), 3, 4), batch.ids, 0)
    assert (kept.run, kept.ids, kept.retained) == (Run(copied(S1), 3, 4), b"", True)
    assert (marker.ttl_ms, kept.ttl_ms) == (1_000, 2_000)
    assert kept.bodies == batch.bodies
    assert copied(copied(S1)) == S1


@given(
    st.lists(
        st.tuples(st.sampled_from((S1, S2)), st.integers(1, 50), st.integers(1, 5), st.booleans()),
        unique_by=lambda step: step[:2],
    )
)
def test_what_comes_after_a_place_is_in_order_and_complete(
    steps: list[tuple[bytes, int, int, bool]],
) -> None:
    traces = Traces()
    there: list[Stored] = []
    for number, (session, first, stamp, drops) in enumerate(steps, 1):
        traces.add(copy(number, session, first, stamp))
        there.append(copy(number, session, first, stamp))
        if drops:
            traces.drop(there.pop(0))
        places = sorted(Place(s.stamp, s.session, s.first, s.number) for s in there)
        assert traces.copies_bytes == sum(stored.size for stored in there)
        assert traces.after(Place(0, b"", 0, 0)) == places
        for at, place in enumerate(places):
            assert traces.after(place) == places[at + 1 :]
