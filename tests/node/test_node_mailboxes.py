"""Mailboxes on real nodes on loopback: `send`, `inbox`, and what is refused."""

import asyncio

import pytest

from p2pmq import Node, QueueNameError, UsageError
from tests.node.kit import PATIENCE_S, mesh, node, take


async def test_mail_comes_to_the_node_it_names_and_its_ack_empties_the_mailbox() -> None:
    async with mesh("a", "b", "c") as (a, b, _):
        for number in range(3):
            assert (await a.send("b", number)).committed
        assert [depth.queue for depth in await a.queues()] == ["@b"]
        messages = await take(b.inbox(prefetch=10), 3)
        assert [message.body for message in messages] == [0, 1, 2]


async def test_mail_for_a_name_that_nobody_has_is_kept_and_has_seven_days() -> None:
    async with node("alone") as alone:
        assert (await alone.send("nobody yet", "hello")).committed
        assert (await alone.depth("@nobody yet")).total == 1
        (stored,) = alone._machine.owner.partitions.values()
        ((at, _),) = stored.expiring
        assert 0 < at - alone._machine._clock.now <= 7 * 86_400_000


async def test_a_mailbox_is_refused_where_a_queue_is_asked_for() -> None:
    async with node("alone") as alone:
        with pytest.raises(QueueNameError, match=r"node\.send"):
            await alone.publish("@alone", 1)
        with pytest.raises(QueueNameError, match=r"node\.send"):
            await alone.publish_many("@alone", [1])
        with pytest.raises(QueueNameError, match=r"node\.inbox"):
            await anext(alone.consume("@alone"))
        with pytest.raises(QueueNameError, match=r"node\.inbox"):
            await anext(alone.consume_batches("@alone"))


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 255, "x" * 256])
async def test_mail_to_a_name_that_no_mailbox_can_have_is_refused(name: str) -> None:
    async with node("alone") as alone:
        with pytest.raises(UsageError, match="name"):
            await alone.send(name, 1)


async def test_mail_to_oneself_comes_by_the_same_way() -> None:
    async with node("alone") as alone:
        await alone.send("alone", "note")
        await _read_one(alone, "note")


async def test_many_are_sent_and_read_in_batches_in_their_order() -> None:
    async with mesh("a", "b", "c") as (a, b, _):
        receipt = await a.send_many("b", range(1_000))
        assert (receipt.queue, receipt.published, receipt.committed) == ("@b", 1_000, 1_000)
        bodies: list[int] = []
        async with asyncio.timeout(PATIENCE_S):
            async for batch in b.inbox_batches():
                async with batch:
                    bodies += batch.bodies
                if len(bodies) >= 1_000:
                    break
        assert bodies == list(range(1_000))


async def test_mail_of_many_to_a_name_that_no_mailbox_can_have_is_refused() -> None:
    async with node("alone") as alone:
        with pytest.raises(UsageError, match="name"):
            await alone.send_many("", [1])


async def _read_one(reader: Node, body: object) -> None:
    (message,) = await take(reader.inbox(), 1)
    assert message.body == body
