"""The judge of replays: what lacks, comes twice or was never published is noticed."""

from __future__ import annotations

from zlib import crc32

import pytest

from p2pmq.core.ids import PartitionKey, Run
from p2pmq.core.traces import Place, Traces
from p2pmq.node.replay import Retained
from p2pmq.sim.history import (
    Dropped,
    Entry,
    Fired,
    History,
    Outcome,
    Process,
    Publication,
    Taken,
)
from p2pmq.sim.replaying import replay_problems
from p2pmq.sim.runner import play
from p2pmq.sim.scenario_file import parsed

SHOP = Process("shop", 1)
KEY = PartitionKey("orders", 0)
SESSION = b"sessions"


def published(seq: int, outcome: Outcome = Outcome.COMMITTED) -> Publication:
    digests = (crc32(b"%d" % seq),)
    return Publication(1, SHOP, KEY, Run(SESSION, seq, seq), "committed", digests, seq, outcome)


def retained(seq: int, body: bytes = b"") -> Retained:
    return Retained("orders", f"{SESSION.hex()}-{seq}", 0.0, body or b"%d" % seq)


def problems(entries: list[Entry], *replayed: Retained) -> list[str]:
    return replay_problems(History(entries), "orders", replayed)


def test_what_was_committed_must_be_there_and_what_was_not_may() -> None:
    entries: list[Entry] = [published(1), published(2, Outcome.TIMED_OUT)]
    assert problems(entries, retained(1)) == []
    assert problems(entries, retained(1), retained(2)) == []
    assert problems(entries, retained(2)) == [f"orders/{SESSION.hex()}-1 is not replayed"]


def test_what_left_the_queue_in_another_way_may_be_there_or_not() -> None:
    entries: list[Entry] = [published(1), Dropped(2, SHOP, KEY, Run(SESSION, 1, 1), "purged")]
    assert problems(entries) == problems(entries, retained(1)) == []


def test_what_a_node_took_before_it_had_met_anybody_may_be_there_or_not() -> None:
    taken = Taken(1, SHOP, KEY, Run(SESSION, 1, 1))
    assert problems([published(1), taken]) == [f"orders/{SESSION.hex()}-1 is not replayed"]
    entries: list[Entry] = [published(1), taken._replace(alone=True)]
    assert problems(entries) == problems(entries, retained(1)) == []


def test_nothing_comes_twice_or_from_nowhere() -> None:
    entries: list[Entry] = [published(1)]
    assert "is replayed 2 times" in problems(entries, retained(1), retained(1))[0]
    (found,) = problems(entries, retained(1), retained(3))
    assert found == f"{SESSION.hex()}-3 is replayed, and was never published so"
    (found,) = problems(entries, retained(1, b"other"))
    assert "was never published so" in found
    tick = Fired(1, SHOP, KEY, Run(SESSION, 3, 3), (crc32(b"3"),))
    assert problems([published(1), tick], retained(1), retained(3)) == []


RETAINED = """\
duration = "5s"
[nodes]
names = ["a", "b", "c"]
replicas = 3
[declared]
queues = "orders"
retain = "1h"
[publishers]
on = "a"
every = "200ms"
[consumers]
on = "b"
[[faults]]
at = "2s"
what = "crash"
hosts = "owner of orders"
for = "2s"
"""


def failures(partitions: int = 1) -> list[str]:
    spread = RETAINED.replace("[consumers]", f"partitions = {partitions}\n[consumers]")
    outcome = play(parsed(spread), 1, observes=False)
    assert not outcome.error
    assert outcome.totals.delivered > 10
    return [verdict.name for verdict in outcome.verdicts if not verdict.ok]


@pytest.mark.parametrize("partitions", [1, 4])
def test_a_replay_after_a_failover_is_whole(partitions: int) -> None:
    assert failures(partitions) == []


def test_a_replay_that_passes_over_a_message_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    after = Traces.after

    def but_one(traces: Traces, place: Place) -> list[Place]:
        return after(traces, place)[1:]

    monkeypatch.setattr(Traces, "after", but_one)
    assert failures() == ["safety: a replay of orders is whole"]
