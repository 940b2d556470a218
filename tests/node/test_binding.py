"""Bindings as a user sees them: events that are kept in queues as well."""

from pathlib import Path

import pytest

import p2pmq
from p2pmq import NotCommittedError, OutboxPolicy, QueueNameError, TopicError, UsageError
from tests.node.kit import CONFIG, mesh, node, take, until


async def test_an_event_is_copied_once_into_each_bound_queue_with_its_topic() -> None:
    async with node("n") as made:
        await made.bind("site.>", queue="all")
        await made.bind("site.*.temp", queue="all")
        await made.bind("site.*.temp", queue="temps")
        await made.emit("site.7.temp", 21.5, confirm="committed")
        await made.emit("site.7.door", b"open", confirm="stored")
        await made.emit("shop", "not bound")
        await made.publish("all", "published")
        found = [(message.topic, message.body) for message in await take(made.consume("all"), 3)]
        assert found == [("site.7.temp", 21.5), ("site.7.door", b"open"), (None, "published")]
        (copy,) = await take(made.consume("temps"), 1)
        assert (copy.topic, copy.body) == ("site.7.temp", 21.5)
        assert made.counters["events_copied"] == 3


async def test_subscribers_get_the_event_as_ever() -> None:
    async with node("n") as made, made.subscribe("a.>") as events:
        await made.bind("a.>", queue="q")
        await made.emit("a.b", 1, confirm="committed")
        async for event in events:
            assert (event.topic, event.body) == ("a.b", 1)
            break


async def test_what_is_bound_is_listed_and_known_to_others_and_outlives_a_restart(
    tmp_path: Path,
) -> None:
    async with node("disk", store="disk", data_dir=str(tmp_path)) as made:
        await made.bind("b.*", queue="q")
        await made.bind("a.>", queue="q")
        await made.bind("c", queue="q")
        await made.unbind("c", queue="q")
    async with node("disk", store="disk", data_dir=str(tmp_path)) as made:
        listed = [(binding.pattern, binding.queue) for binding in made.bindings()]
        assert listed == [("a.>", "q"), ("b.*", "q")]
    async with mesh("a", "b") as (a, b):
        await a.bind("t.*", queue="q")
        await until(lambda: len(b.bindings()) == 1)
        await b.emit("t.1", "from b", confirm="committed")
        (message,) = await take(a.consume("q"), 1)
        assert (message.topic, message.body) == ("t.1", "from b")
        await b.unbind("t.*", queue="q")
        await until(lambda: not a.bindings())


async def test_a_dead_letter_tells_the_topic_too() -> None:
    async with node("n") as made:
        await made.bind("a", queue="q")
        await made.emit("a", 1, confirm="committed")
        async for message in made.consume("q"):
            assert message.topic == "a"
            message.reject("no good")
            break
        (dead,) = await take(made.consume("q.dlq"), 1)
        assert dead.topic == "a"


async def test_what_cannot_be_bound_says_so() -> None:
    async with node("n") as made:
        with pytest.raises(TopicError):
            await made.bind("a*", queue="q")
        with pytest.raises(QueueNameError):
            await made.bind("a", queue="@n")
        with pytest.raises(UsageError):
            await made.emit("a", 1, confirm="soon")  # type: ignore[arg-type]  # that is the point


async def test_copies_that_find_no_room_or_no_owner_are_told_to_the_emitter() -> None:
    small = p2pmq.Config(timing=CONFIG.timing, outbox=OutboxPolicy(bytes_max=1, overflow="refuse"))
    async with node("n", config=small) as made:
        await made.bind("a", queue="q")
        with pytest.raises(p2pmq.OutboxFullError):
            await made.emit("a", 1)
    async with mesh("a", "b") as (a, b):
        queue = next(f"q{n}" for n in range(1_000) if a.owner_of(f"q{n}") == "b")
        await a.bind("t", queue=queue)
        await b.close()
        with pytest.raises(NotCommittedError):
            await a.emit("t", 1, confirm="committed", timeout=0.05)
        await a.emit("t", 1, confirm="stored")
