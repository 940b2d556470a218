"""The desk of requests: what it refuses, how it packs, and which error comes of which outcome."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast

import pytest

from p2pmq.core import events
from p2pmq.core.effects import Handle, NotReplied, Replied
from p2pmq.core.ids import JobId
from p2pmq.errors import (
    BodyTooLargeError,
    NoResponderError,
    NotSerializableError,
    OverloadedError,
    P2PMQError,
    RemoteError,
    RequestTimeoutError,
    ResponderGoneError,
    UsageError,
)
from p2pmq.node.requests import (
    TEXT_CHARACTERS_MAX,
    Request,
    RequestDesk,
    body_of,
    packed,
    reply_of,
    text_of,
)
from p2pmq.node.wanted import Wanted

if TYPE_CHECKING:
    from p2pmq.node.requests import RequestHandler

PEER = b"peer-----"[:8]


class Scene:
    def __init__(self) -> None:
        self.fed: list[events.Event] = []
        self.counted: list[str] = []
        self.desk = RequestDesk()

    def open(self) -> None:
        loop = asyncio.get_running_loop()
        wanted = Wanted(self.fed.append, loop)
        self.desk.open(self.fed.append, loop, 100, wanted, lambda _: "caller", self.counted.append)

    async def handle(self, body: object, number: int = 1) -> events.RequestHandled:
        """Let a request come; what the core is told when its handler has ended."""
        bodies, _ = packed(body, 1_000)
        self.desk.on_handle(Handle(JobId(PEER, b"session1", number), "work", bodies, 5_000))
        while True:
            for event in self.fed:
                if isinstance(event, events.RequestHandled):
                    self.fed.remove(event)
                    return event
            await asyncio.sleep(0)


async def echo(request: Request) -> object:
    return [request.body, request.sender, request.responder]


async def test_responders_given_before_the_start_are_opened_with_it() -> None:
    scene = Scene()
    scene.desk.respond("work", echo, 2, 3)
    assert scene.fed == []
    scene.open()
    await asyncio.sleep(0)
    assert scene.fed == [
        events.RespondRequested("work", 2, 3),
        events.InterestsRequested(("$r.work",)),
    ]


async def test_a_handler_gets_the_request_and_its_result_is_packed() -> None:
    scene = Scene()
    scene.open()
    scene.desk.respond("work", echo, 1, 1)
    handled = await scene.handle({"n": 1})
    assert handled.bodies is not None
    assert body_of(handled.bodies) == [{"n": 1}, "caller", "work"]
    assert scene.counted == ["requests_answered"]


async def test_whatever_a_handler_raises_or_cannot_be_packed_is_an_error_for_its_caller() -> None:
    scene = Scene()
    scene.open()

    async def work(request: Request) -> object:
        if request.body == "raise":
            raise KeyError("x")
        if request.body == "cancel":
            raise asyncio.CancelledError
        return object() if request.body == "object" else bytes(101)

    scene.desk.respond("work", work, 1, 1)
    kinds = [
        (await scene.handle(body, number)).kind
        for number, body in enumerate(("raise", "cancel", "object", "large"))
    ]
    assert kinds == ["KeyError", "CancelledError", "NotSerializableError", "BodyTooLargeError"]
    assert scene.counted == ["requests_raised"] * 3


async def test_a_handler_that_is_stopped_is_cancelled_even_before_it_began() -> None:
    scene = Scene()
    scene.open()
    scene.desk.respond("work", echo, 1, 1)
    bodies, _ = packed(1, 100)
    job_id = JobId(PEER, b"session1", 1)
    scene.desk.on_handle(Handle(job_id, "work", bodies, 5_000))
    scene.desk.on_stop_handling(job_id)
    scene.desk.on_stop_handling(JobId(PEER, b"session1", 99))
    for _ in range(3):
        await asyncio.sleep(0)
    assert events.RequestHandled(
        job_id, kind="CancelledError", text="the handler was cancelled"
    ) in (scene.fed)


async def test_closing_tells_at_once_and_gives_what_is_to_be_waited_for() -> None:
    scene = Scene()
    scene.open()
    gate = asyncio.Event()

    async def slow(request: Request) -> None:
        await gate.wait()

    scene.desk.respond("work", slow, 1, 1)
    await asyncio.sleep(0)
    bodies, _ = packed(1, 100)
    scene.desk.on_handle(Handle(JobId(PEER, b"session1", 1), "work", bodies, 5_000))
    scene.fed.clear()
    waits = scene.desk.drain(None)
    assert scene.fed == [
        events.RespondEnded("work"),
        events.InterestsRequested((), ("$r.work",)),
    ]
    assert len(waits) == 1
    scene.desk.end()
    with pytest.raises(asyncio.CancelledError):
        await waits[0]


@pytest.mark.parametrize(
    ("numbers", "match"),
    [((0, 1), "1 to 65,536 handlers"), ((1, -1), "0 to 65,536 requests"), ((10**9, 1), "give 1")],
)
def test_numbers_that_cannot_be_are_refused(numbers: tuple[int, int], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        RequestDesk().respond("work", echo, *numbers)


def test_a_name_has_one_handler_and_that_is_asynchronous() -> None:
    desk = RequestDesk()

    class Callable_:  # noqa: N801  an object with an asynchronous call
        async def __call__(self, request: Request) -> object:
            return None

    first = desk.respond("work", echo, 1, 1)
    with pytest.raises(UsageError, match="answers to 'work' already"):
        desk.respond("work", echo, 1, 1)
    first.close()
    desk.respond("work", Callable_(), 1, 1)
    first.close()
    desk.respond("partial", partial(echo), 1, 1)
    with pytest.raises(UsageError, match="already"):
        desk.respond("work", echo, 1, 1)
    with pytest.raises(UsageError, match="async def"):
        desk.respond("other", cast("RequestHandler", lambda request: None), 1, 1)


@pytest.mark.parametrize("body", [b"raw", None, 1.5, {"a": [1, "x"]}, ""])
def test_a_body_comes_back_as_it_was_packed(body: object) -> None:
    assert body_of(packed(body, 100)[0]) == body


def test_bodies_that_cannot_be_sent_are_refused() -> None:
    with pytest.raises(BodyTooLargeError):
        packed(bytes(101), 100)
    with pytest.raises(NotSerializableError):
        packed(object(), 100)


class SilentError(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def test_an_error_is_cut_to_what_a_packet_carries() -> None:
    kind, text = text_of(type("E" * 500, (Exception,), {})("€" * 5_000))
    assert len(kind.encode()) <= 255
    assert len(text) == TEXT_CHARACTERS_MAX
    assert len(text.encode()) <= 4_096
    assert text_of(ValueError("a\ud800b")) == ("ValueError", "a?b")
    assert text_of(SilentError()) == ("SilentError", "(its text cannot be had: RuntimeError)")


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("nobody", NoResponderError),
        ("overloaded", OverloadedError),
        ("gone", ResponderGoneError),
        ("raised", RemoteError),
        ("timeout", RequestTimeoutError),
    ],
)
def test_each_outcome_has_its_error(
    reason: Literal["nobody", "timeout", "gone", "overloaded", "raised"],
    expected: type[P2PMQError],
) -> None:
    with pytest.raises(expected, match="'work'") as caught:
        reply_of(NotReplied(reason, PEER, "KeyError", "'x'"), "work", 2.0, "bank")
    if reason != "nobody":
        assert "'bank'" in str(caught.value)
    if isinstance(caught.value, RemoteError):
        assert (caught.value.kind, caught.value.text) == ("KeyError", "'x'")


def test_a_reply_is_its_body() -> None:
    reply: Any = reply_of(Replied(packed({"gold": 1}, 100)[0]), "work", 2.0, None)
    assert reply == {"gold": 1}
