"""What a handler publishes with its ack, and what is processed once, as a user sees it."""

from pathlib import Path

import pytest

from p2pmq import BodyTooLargeError, Message, NotSerializableError, QueueNameError, UsageError
from p2pmq.core.tying import OUTPUTS_MAX
from tests.node.kit import is_empty, node, take, until, until_async


async def test_what_was_published_with_an_ack_comes_out_as_it_went_in() -> None:
    async with node("n") as made:
        await made.publish("in", 1)
        async for message in made.consume("in"):
            async with message:
                message.publish("out", {"of": message.body}, priority=3)
                message.publish("out", b"raw")
                message.publish("other", "text", ttl=60)
            break
        found = await take(made.consume("out"), 2)
        assert sorted(str(each.body) for each in found) == ["b'raw'", "{'of': 1}"]
        (other,) = await take(made.consume("other"), 1)
        assert other.body == "text"
        await until_async(lambda: is_empty(made, "in"))


async def test_nothing_of_it_is_sent_when_the_message_is_given_back() -> None:
    async with node("n") as made:
        await made.publish("in", 1)
        async for message in made.consume("in"):
            message.publish("out", "never")
            message.nack(0)
            break
        async for message in made.consume("in"):
            assert message.redelivered
            message.publish("out", "second")
            message.ack()
            break
        (found,) = await take(made.consume("out"), 1)
        assert found.body == "second"
        assert (await made.depth("out")).ready == 0


async def test_what_cannot_be_published_with_an_ack_says_so() -> None:
    async with node("n") as made:
        await made.publish("in", 1)
        async for message in made.consume("in"):
            with pytest.raises(QueueNameError):
                message.publish("@n", 1)
            with pytest.raises(NotSerializableError):
                message.publish("out", object())
            with pytest.raises(BodyTooLargeError):
                message.publish("out", b"x" * (17 * 1024 * 1024))
            with pytest.raises(UsageError):
                message.publish("out", 1, priority=10)
            message.publish("out", b"x" * (9 * 1024 * 1024))
            with pytest.raises(UsageError, match="bytes"):
                message.publish("out", b"x" * (9 * 1024 * 1024))
            for number in range(OUTPUTS_MAX - 1):
                message.publish("out", number)
            with pytest.raises(UsageError, match="64 others"):
                message.publish("out", "one more")
            message.ack()
            with pytest.raises(UsageError, match="is settled"):
                message.publish("out", 1)
            break
        await until_async(lambda: is_empty(made, "in"))
        assert (await made.depth("out")).total == OUTPUTS_MAX


async def test_a_handler_publishes_and_closing_the_node_lets_it_finish() -> None:
    async with node("n") as made:

        @made.handler("in", once=True)
        async def handle(message: Message) -> None:
            message.publish("out", message.body)

        await made.publish_many("in", range(50))
        found = await take(made.consume("out"), 50)
        assert sorted(message.body for message in found) == list(range(50))
        await until_async(lambda: is_empty(made, "in"))


async def test_what_was_processed_is_remembered_over_a_restart(tmp_path: Path) -> None:
    async with node("n", store="disk", data_dir=str(tmp_path)) as made:
        await made.publish_many("q", range(3))
        async for message in made.consume("q", once=True):
            message.ack()
            if message.body == 2:
                break
        await until_async(lambda: is_empty(made, "q"))
    async with node("n", store="disk", data_dir=str(tmp_path)) as made:
        once = made._machine.once
        assert once.blocks == 1
        await until(lambda: made._machine.settling.unconfirmed == 0)
