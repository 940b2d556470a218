"""The outbox's limits as the user of a node meets them: errors, counters, and the callback."""

from __future__ import annotations

import asyncio
from typing import Literal

import pytest

from p2pmq import Config, Node, NotCommittedError, OutboxFullError, OutboxPolicy, Overflow
from p2pmq.core.quota import cost_of
from p2pmq.errors import UsageError
from tests.node.kit import PATIENCE_S

ONE = cost_of(1, 10)


def lonely(policy: OutboxPolicy, told: list[Overflow]) -> Node:
    """A leaf that knows no owner: whatever it publishes stays in its outbox."""
    return Node(
        "lonely",
        mdns=False,
        store="memory",
        leaf=True,
        config=Config(outbox=policy),
        on_overflow=told.append,
    )


async def test_drop_lowest_tells_the_publisher_of_what_it_drops_and_calls_back() -> None:
    told: list[Overflow] = []
    async with lonely(OutboxPolicy(ONE, overflow="drop-lowest"), told) as node:
        low = asyncio.ensure_future(node.publish("q", b"x" * 10, timeout=PATIENCE_S))
        while not node._machine.outbox.messages:
            await asyncio.sleep(0)
        await node.publish("q", b"y" * 10, priority=1, confirm="stored")
        with pytest.raises(NotCommittedError, match="full; the message was") as caught:
            await low
        assert caught.value.dropped
        assert not caught.value.receipt.stored
        with pytest.raises(OutboxFullError, match=r"OutboxPolicy\.bytes_max"):
            await node.publish("q", b"z" * 10, priority=1)
        assert [(o.action, o.queue, o.count, o.size, o.priority, o.reason) for o in told] == [
            ("dropped", "q", 1, 10, 0, "outbox_full"),
            ("refused", "q", 1, 10, 1, "outbox_full"),
        ]
        assert told[0].message_ids == [caught.value.receipt.message_id]
        assert node.counters["outbox_dropped"] == node.counters["outbox_refused"] == 1
        await node.close(timeout=0)


@pytest.mark.parametrize("confirm", ["committed", "stored", "none"])
async def test_refuse_raises_at_once_whatever_is_waited_for(
    confirm: Literal["committed", "stored", "none"],
) -> None:
    told: list[Overflow] = []
    async with lonely(OutboxPolicy(ONE, overflow="refuse"), told) as node:
        await node.publish("q", b"x" * 10, confirm="stored")
        with pytest.raises(OutboxFullError, match="not taken"):
            await node.publish("q", b"y" * 10, confirm=confirm, timeout=3_600)
        with pytest.raises(OutboxFullError):
            await node.publish_many("q", [b"y" * 10], confirm=confirm, timeout=3_600)
        assert [(o.action, o.count, o.message_ids) for o in told] == [("refused", 1, [])] * 2
        assert node.counters["outbox_refused"] == 2
        await node.close(timeout=0)


async def test_wait_ends_in_an_error_at_the_publisher_s_timeout_and_both_are_told() -> None:
    told: list[Overflow] = []
    async with lonely(OutboxPolicy(ONE), told) as node:
        await node.publish("q", b"x" * 10, confirm="stored")
        with pytest.raises(OutboxFullError, match="did not drain"):
            await node.publish("q", b"y" * 10, timeout=0.05)
        assert [overflow.action for overflow in told] == ["waited", "refused"]
        await node.close(timeout=0)


async def test_a_message_larger_than_the_whole_outbox_is_refused_without_a_wait() -> None:
    told: list[Overflow] = []
    async with lonely(OutboxPolicy(ONE), told) as node:
        with pytest.raises(OutboxFullError):
            await node.publish("q", b"y" * 11, timeout=3_600)
        assert [overflow.action for overflow in told] == ["refused"]


async def test_a_callback_that_raises_is_logged_and_the_node_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def bad(_: Overflow) -> None:
        raise ValueError("mine")

    policy = OutboxPolicy(ONE, overflow="refuse")
    async with Node(
        "lonely",
        mdns=False,
        store="memory",
        leaf=True,
        config=Config(outbox=policy),
        on_overflow=bad,
    ) as node:
        await node.publish("q", b"x" * 10, confirm="stored")
        for _ in range(2):
            with pytest.raises(OutboxFullError):
                await node.publish("q", b"y" * 10)
        assert "its on_overflow callback raised" in caplog.text
        await node.close(timeout=0)


@pytest.mark.parametrize(
    "wrong", [{"bytes_max": 0}, {"age_max_ms": -1}, {"overflow": "drop-oldest"}]
)
def test_a_policy_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        OutboxPolicy(**wrong)  # type: ignore[arg-type]  # wrong on purpose
