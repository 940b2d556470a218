"""The checks of single features: each finds what it is for, in a history and in a broken mesh."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from p2pmq.core import limits
from p2pmq.core.delivery import PartitionDelivery
from p2pmq.core.effects import Discarded, Effect, Notify, Send
from p2pmq.core.ids import NodeId, PartitionKey, Run
from p2pmq.core.packets.limiting import PurgeRequest, PurgeResult
from p2pmq.core.packets.registering import OVERFLOW_BLOCK, QueueSettings
from p2pmq.core.purging import Job, Purges
from p2pmq.core.waits import Waits
from p2pmq.errors import NotCommittedError, QueueFullError
from p2pmq.node.node import Node
from p2pmq.sim import SimulationCheckError, Violation, features, simulate
from p2pmq.sim.history import (
    AckConfirmed,
    Declared,
    Dropped,
    Fault,
    History,
    Outcome,
    Process,
    Publication,
    Purge,
    Pushed,
)
from p2pmq.sim.mesh import Mesh

SHOP, BANK = Process("shop", 1), Process("bank", 1)
KEY = PartitionKey("orders", 0)
SESSION = b"sessions"
Check = Callable[[History], list[Violation]]
Story = Callable[[Mesh], Awaitable[None]]


def run(first: int, last: int = 0) -> Run:
    return Run(SESSION, first, last or first)


def published(first: int, last: int = 0, outcome: Outcome = Outcome.COMMITTED) -> Publication:
    dots = run(first, last)
    digests = tuple(range(dots.first, dots.last + 1))
    at = Publication(1, SHOP, KEY, dots, "committed", digests, first, outcome)
    return replace(at, told_at_s=2.0)


def rejected(first: int) -> Dropped:
    return Dropped(1.5, SHOP, KEY, run(first), "queue_full: refused")


def overflowed(first: int, at_s: float = 3) -> Dropped:
    return Dropped(at_s, BANK, KEY, run(first), features.DROPPED_OLDEST)


def purged(first: int) -> Dropped:
    return overflowed(first)._replace(reason=features.PURGED)


def declared(overflow: str, most: int = 2, at_s: float = 0) -> Declared:
    return Declared(at_s, "orders", most, 0, overflow)


GONE = replace(published(1, outcome=Outcome.TIMED_OUT), gone="rejected")
PUSHED = Pushed(4, BANK, KEY, run(1), 1)

BROKEN: dict[str, tuple[Check, History]] = {
    "a queue that rejects though it is to let publishers wait": (
        features.rejected_is_told,
        History([declared("block"), GONE, rejected(1)]),
    ),
    "a queue that rejects before it is declared to": (
        features.rejected_is_told,
        History([GONE, rejected(1), declared("reject", at_s=5)]),
    ),
    "a rejected message whose publisher was told that it is committed": (
        features.rejected_is_told,
        History([declared("reject"), published(1), rejected(1)]),
    ),
    "a rejected message whose publisher was told nothing of it": (
        features.rejected_is_told,
        History([declared("reject"), replace(GONE, gone=""), rejected(1)]),
    ),
    "the oldest, dropped by a queue that was not declared to": (
        features.only_what_is_too_much_goes,
        History([declared("reject"), published(1, 3), overflowed(1)]),
    ),
    "the oldest, dropped though there was room": (
        features.only_what_is_too_much_goes,
        History([declared("drop-oldest"), published(1, 2), overflowed(1)]),
    ),
    "the oldest, dropped though enough had been acked": (
        features.only_what_is_too_much_goes,
        History(
            [
                declared("drop-oldest"),
                published(1, 3),
                AckConfirmed(2, b"consumer", KEY, run(3), "bank"),
                overflowed(1),
            ]
        ),
    ),
    "what was dropped for want of room, and is pushed": (
        features.discarded_stays_away,
        History([published(1), overflowed(1), PUSHED]),
    ),
    "a message that was published after a purge, and goes by it": (
        features.purged_was_to_go,
        History([Purge(0.2, KEY, done_at_s=0.9), published(1), purged(1)]),
    ),
    "a message that goes as purged, and only another queue was": (
        features.purged_was_to_go,
        History([published(1), Purge(2, PartitionKey("other", 0)), purged(1)]),
    ),
    "what was purged, and is pushed": (
        features.discarded_stays_away,
        History([published(1), purged(1), PUSHED]),
    ),
}

GOOD: dict[str, tuple[Check, History]] = {
    "rejected, and its publisher was told": (
        features.rejected_is_told,
        History([declared("reject"), GONE, rejected(1)]),
    ),
    "rejected after its publisher's patience": (
        features.rejected_is_told,
        History([declared("reject"), replace(GONE, gone="", told_at_s=1.2), rejected(1)]),
    ),
    "rejected in the instant in which its publisher's patience ended": (
        features.rejected_is_told,
        History(
            [
                declared("reject"),
                replace(GONE, gone="", told_at_s=rejected(1).at_s, patience_s=rejected(1).at_s - 1),
                rejected(1),
            ]
        ),
    ),
    "rejected, after it was stored as asked for": (
        features.rejected_is_told,
        History(
            [
                declared("reject"),
                replace(published(1, outcome=Outcome.STORED), wanted="stored"),
                rejected(1),
            ]
        ),
    ),
    "dropped since there was one too many": (
        features.only_what_is_too_much_goes,
        History([declared("drop-oldest"), published(1, 3), overflowed(1)]),
    ),
    "dropped by an owner that may not have heard of an ack": (
        features.only_what_is_too_much_goes,
        History(
            [
                Fault(0, "cut", (), "", until_s=1),
                declared("drop-oldest"),
                published(1, 3),
                AckConfirmed(2, b"consumer", KEY, run(3), "shop"),
                overflowed(1),
            ]
        ),
    ),
    "pushed, and dropped when it was given back": (
        features.discarded_stays_away,
        History([published(1), PUSHED, overflowed(1, at_s=5)]),
    ),
    "purged, while whoever asked for it waited": (
        features.purged_was_to_go,
        History([Purge(0.2, KEY, done_at_s=1.5), published(1), purged(1)]),
    ),
    "purged by somebody who was told no end of it": (
        features.purged_was_to_go,
        History([Purge(0.2, KEY), published(1), purged(1)]),
    ),
    "pushed by another, who had not heard of it": (
        features.discarded_stays_away,
        History([published(1), overflowed(1), PUSHED._replace(owner=SHOP)]),
    ),
}


@pytest.mark.parametrize(("check", "broken"), BROKEN.values(), ids=BROKEN)
def test_a_broken_history_fails(check: Check, broken: History) -> None:
    assert len(check(broken)) == 1


@pytest.mark.parametrize(("check", "good"), GOOD.values(), ids=GOOD)
def test_a_history_that_can_be_explained_passes(check: Check, good: History) -> None:
    assert check(good) == []


# ------------------------------------------------------------------------------------- ablations


async def full(mesh: Mesh, overflow: str) -> None:
    """More is published than the queue holds; then it is consumed."""
    a, _, c = await mesh.start("a", "b", "c")
    await a.declare("q", max_messages=5, overflow=overflow)  # type: ignore[arg-type]  # one of them
    await mesh.settle()

    async def publish(node: Node) -> None:
        for number in range(12):
            with suppress(QueueFullError, NotCommittedError):
                await node.publish("q", number, timeout=2)

    mesh.serve("a", publish)
    mesh.serve("b", publish)
    await mesh.run_for(seconds=60)
    async for _ in c.drain("q"):
        pass
    await mesh.run_for(seconds=20)
    async for _ in c.drain("q"):
        pass
    mesh.check(duplicates_max=0, stuck_max=0)


async def blocking(mesh: Mesh) -> None:
    await full(mesh, "block")


async def rejecting(mesh: Mesh) -> None:
    await full(mesh, "reject")


async def dropping(mesh: Mesh) -> None:
    await full(mesh, "drop-oldest")


def failure(story: Story) -> str:
    """Which checks the story fails; empty: none."""
    logging.disable(logging.ERROR)
    try:
        with simulate(1, events_max=2_000_000) as sim:
            sim.run(story)  # type: ignore[arg-type]  # all stories are coroutine functions
    except SimulationCheckError as error:
        return str(error)
    finally:
        logging.disable(logging.NOTSET)
    return ""


@pytest.mark.parametrize("story", [blocking, rejecting, dropping])
def test_with_all_safeguards_every_story_ends_well(story: Story) -> None:
    assert failure(story) == ""


def test_a_queue_that_rejects_where_publishers_should_wait_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "OVERFLOW_REJECT", OVERFLOW_BLOCK)
    assert "rejected_is_told" in failure(blocking)


def test_a_publisher_that_is_not_told_of_a_rejection_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tell = Waits.tell

    def mute(waits: Waits, *args: Any, gone: str = "", **told: Any) -> list[Effect]:  # noqa: ANN401  stands in for a method
        return tell(waits, *args, **told)

    monkeypatch.setattr(Waits, "tell", mute)
    assert "rejected_is_told" in failure(rejecting)


def test_a_queue_that_drops_more_than_is_too_much_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    excess = limits.excess

    def more(settings: QueueSettings, delivery: PartitionDelivery) -> tuple[int, int]:
        messages, size = excess(settings, delivery)
        return messages + 1, size

    monkeypatch.setattr(limits, "excess", more)
    assert "only_what_is_too_much_goes" in failure(dropping)


def test_what_was_told_as_dropped_and_stays_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def told_only(
        *args: Any,  # noqa: ANN401  stands in for a function
        reason: str,
    ) -> list[Effect]:
        _, _, key, runs, _ = args
        return [Notify(Discarded(key, tuple(runs), reason))]

    monkeypatch.setattr(limits, "discard", told_only)
    assert "discarded_stays_away" in failure(dropping)


def test_a_purge_that_is_done_after_it_was_said_to_be_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story(mesh: Mesh) -> None:
        a, b = await mesh.start("a", "b")
        await a.publish_many("q", range(5))
        await b.purge("q")
        await mesh.run_for(seconds=0.1)
        await a.publish_many("q", range(5, 9))
        await mesh.run_for(seconds=5)
        mesh.check()

    assert failure(story) == ""

    def say_first(purges: Purges, peer: NodeId, packet: PurgeRequest, now: int) -> list[Effect]:
        key = PartitionKey(packet.queue, packet.partition)
        purges._jobs.append(Job(key, peer, packet.number, deque(range(100))))
        purges._go_on_at = now + 2_000
        return [Send(peer, PurgeResult(packet.number, 5))]

    monkeypatch.setattr(Purges, "on_request", say_first)
    assert "purged_was_to_go" in failure(story)
