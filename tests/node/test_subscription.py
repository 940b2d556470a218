"""Subscriptions: a buffer that drops by rule, iterated with and without `async with`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import pytest

from p2pmq.errors import UsageError
from p2pmq.node import subscription as module
from p2pmq.node.subscription import BUFFER_EVENTS_MAX, Event, Subscription

if TYPE_CHECKING:
    from p2pmq.node.subscription import OnSlow


class Desk:
    def __init__(self) -> None:
        self.open_now: list[Subscription] = []
        self.dropped = 0

    def open(self, subscription: Subscription) -> None:
        self.open_now.append(subscription)

    def close(self, subscription: Subscription) -> None:
        self.open_now.remove(subscription)

    def count_dropped(self, count: int) -> None:
        self.dropped += count


def made(desk: Desk, buffer: int = 3, on_slow: OnSlow = "drop-oldest") -> Subscription:
    return Subscription(desk, ("n",), buffer, on_slow)


def event(number: int, size: int = 1) -> Event:
    return Event("n", "a", b"%d" % number + bytes(size - 1), 0)


async def read(subscription: Subscription, count: int) -> list[bytes]:
    iterator = subscription.__aiter__()
    return [(await anext(iterator)).body for _ in range(count)]


@pytest.mark.parametrize(
    ("on_slow", "kept"), [("drop-oldest", [b"2", b"3", b"4"]), ("drop-newest", [b"0", b"1", b"2"])]
)
async def test_a_full_buffer_drops_by_its_rule_and_counts(
    on_slow: OnSlow, kept: list[bytes]
) -> None:
    desk = Desk()
    async with made(desk, on_slow=on_slow) as subscription:
        for number in range(5):
            subscription.put(event(number))
        assert len(subscription) == 3
        assert (subscription.dropped, desk.dropped) == (2, 2)
        assert await read(subscription, 3) == kept


async def test_large_bodies_are_bounded_by_bytes_and_a_single_one_fits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "BUFFER_BYTES_MAX", 100)
    async with made(Desk(), buffer=10) as subscription:
        subscription.put(event(1, size=1_000))
        assert len(subscription) == 1
        subscription.put(event(2, size=60))
        subscription.put(event(3, size=40))
        subscription.put(event(4, size=1))
        assert (len(subscription), subscription.dropped) == (2, 2)
        assert [body[:1] for body in await read(subscription, 2)] == [b"3", b"4"]
        subscription.put(event(5, size=100))
        assert subscription.dropped == 2, "what was read makes room"


async def test_within_async_with_an_iteration_may_be_left_and_taken_up() -> None:
    desk = Desk()
    async with made(desk) as subscription:
        for number in range(3):
            subscription.put(event(number))
        async for first in subscription:
            assert first.body == b"0"
            break
        assert desk.open_now == [subscription]
        assert await read(subscription, 2) == [b"1", b"2"]
    assert desk.open_now == []


async def test_a_plain_iteration_is_a_subscription_as_long_as_it_lasts() -> None:
    desk = Desk()
    subscription = made(desk)
    assert desk.open_now == [], "nothing before it begins"
    heard: list[bytes] = []

    async def listen() -> None:
        async for each in subscription:
            heard.append(each.body)
            if each.body == b"2":
                break

    task = asyncio.ensure_future(listen())
    await asyncio.sleep(0)
    assert desk.open_now == [subscription]
    subscription.put(event(1))
    subscription.put(event(2))
    await task
    await asyncio.sleep(0)
    assert heard == [b"1", b"2"]
    await asyncio.sleep(0)
    assert desk.open_now == []


async def test_tasks_that_share_one_get_each_event_once_and_one_may_be_cancelled() -> None:
    async with made(Desk(), buffer=100) as subscription:
        heard: list[bytes] = []

        async def listen() -> None:
            heard.extend([each.body async for each in subscription])

        tasks = [asyncio.ensure_future(listen()) for _ in range(3)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        await asyncio.sleep(0)
        for number in range(9):
            subscription.put(event(number))
        await asyncio.sleep(0)
        subscription.end()
        await asyncio.gather(*tasks[1:])
        assert sorted(heard) == [b"%d" % number for number in range(9)]
        assert tasks[0].cancelled()


async def test_what_is_there_is_read_before_the_end_and_before_an_error() -> None:
    async with made(Desk()) as ending:
        ending.put(event(1))
        ending.end()
        assert [each.body async for each in ending] == [b"1"]
    async with made(Desk()) as failing:
        failing.put(event(1))
        failing.fail(RuntimeError("disk"))
        iterator = failing.__aiter__()
        assert (await anext(iterator)).body == b"1"
        with pytest.raises(RuntimeError, match="disk"):
            await anext(iterator)


def test_an_event_says_what_it_is() -> None:
    made_event = Event("site.7.temp", "sensor", b"\xc3", 1)
    assert (made_event.topic, made_event.sender, made_event.body) == ("site.7.temp", "sensor", True)
    assert repr(made_event) == "<Event to 'site.7.temp' from 'sensor', 1 bytes>"


@pytest.mark.parametrize("buffer", [0, -1, BUFFER_EVENTS_MAX + 1])
async def test_a_buffer_that_cannot_be_is_refused(buffer: int) -> None:
    with pytest.raises(UsageError, match="give 1 to 1,000,000"):
        made(Desk(), buffer=buffer)


async def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(UsageError, match="'drop-oldest', 'drop-newest'"):
        made(Desk(), on_slow=cast("OnSlow", "block"))
