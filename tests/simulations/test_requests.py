"""Requests in whole simulated meshes: at most once, always an answer or an error, in time."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from p2pmq.errors import (
    ClosedNodeError,
    NoResponderError,
    P2PMQError,
    RemoteError,
    RequestTimeoutError,
    ResponderGoneError,
)
from p2pmq.sim import seeds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from p2pmq.node.node import Node
    from p2pmq.node.requests import Request
    from p2pmq.sim.mesh import Mesh

SPREADS_S = 2.0
"""Responders are known to everybody by then, where nothing is lost."""


class Service:
    """A responder on a host, now and after each restart; it notes what its handlers do."""

    def __init__(self, mesh: Mesh, host: str, name: str = "work", **terms: int) -> None:
        self.handled: list[Any] = []
        self.ended: list[Any] = []
        self.cancelled: list[Any] = []
        self.takes_s = 0.0
        self.running = self.most = 0
        self._name = name
        self._terms = terms
        mesh.serve(host, self._serve)

    async def _serve(self, node: Node) -> None:
        node.respond(self._name, self.handle, **self._terms)

    async def handle(self, request: Request) -> object:
        self.handled.append(request.body)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(self.takes_s)
        except asyncio.CancelledError:
            self.cancelled.append(request.body)
            raise
        finally:
            self.running -= 1
        self.ended.append(request.body)
        return {"done": request.body}


async def outcome(node: Node, body: object, timeout: float = 5.0) -> str:  # noqa: ASYNC109  request's own
    """What became of a request: the name of the error, or "done"."""
    try:
        reply = await node.request("work", body, timeout=timeout)
    except P2PMQError as error:
        return type(error).__name__
    assert reply == {"done": body}
    return "done"


@contextmanager
def unlogged() -> Iterator[None]:
    """The log shows a handler's error as it is: pytest-xdist cannot pass on a lone surrogate."""
    logger = logging.getLogger("p2pmq")
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = False


@seeds(5)
async def test_requests_are_spread_over_who_answers_and_a_local_one_is_asked_first(
    mesh: Mesh,
) -> None:
    a, b, *_ = await mesh.start("a", "b", "c", "d")
    services = [Service(mesh, name) for name in ("b", "c", "d")]
    for service in services:
        service.takes_s = 1.0
    await mesh.run_for(seconds=SPREADS_S)
    outcomes = await asyncio.gather(*(outcome(a, number) for number in range(30)))
    assert set(outcomes) == {"done"}
    assert [len(service.handled) for service in services] == [10, 10, 10]
    assert await outcome(b, "here") == "done"
    assert services[0].handled[-1] == "here"


@seeds(5)
async def test_where_nobody_answers_it_is_said_at_once_and_a_newcomer_is_waited_for(
    mesh: Mesh,
) -> None:
    a, b = await mesh.start("a", "b")
    began = mesh.now
    with pytest.raises(NoResponderError, match="'work'"):
        await a.request("work", 1, timeout=30)
    assert 0.4 < mesh.now - began < 0.7
    asked = asyncio.ensure_future(outcome(a, 1))
    await mesh.run_for(seconds=0.2)
    Service(mesh, "b")
    assert await asked == "done"
    assert b.counters["requests_answered"] == 1


@seeds(5)
async def test_an_error_in_the_handler_reaches_the_caller_with_class_and_text(
    mesh: Mesh,
) -> None:
    a, b = await mesh.start("a", "b")

    async def broken(request: Request) -> object:
        raise LookupError(f"no price for {request.body}\ud800" + "x" * 10_000)

    async def unpackable(request: Request) -> object:
        return object()

    b.respond("prices", broken)
    b.respond("object", unpackable)
    await mesh.run_for(seconds=SPREADS_S)
    with unlogged(), pytest.raises(RemoteError) as caught:
        await a.request("prices", "gold")
    error = caught.value
    assert (error.responder, error.node, error.kind) == ("prices", "b", "LookupError")
    assert error.text.startswith("no price for gold?xxx")
    assert len(error.text) == 1_000
    with pytest.raises(RemoteError, match="NotSerializableError"):
        await a.request("object")


@seeds(5)
async def test_the_deadline_travels_and_ends_caller_and_handler_together(mesh: Mesh) -> None:
    a, _ = await mesh.start("a", "b")
    service = Service(mesh, "b", concurrency=1)
    service.takes_s = 60
    await mesh.run_for(seconds=SPREADS_S)
    began = mesh.now
    outcomes = await asyncio.gather(outcome(a, 1, timeout=2), outcome(a, 2, timeout=1))
    assert set(outcomes) == {"RequestTimeoutError"}
    assert 1.99 < mesh.now - began < 2.1
    await mesh.run_for(seconds=0.1)
    assert service.cancelled == [1]
    assert service.handled == [1], "who waited in line had given up"
    service.takes_s = 0
    assert await outcome(a, 3) == "done"


@seeds(5)
async def test_a_caller_that_is_cancelled_cancels_the_handler(mesh: Mesh) -> None:
    a, _ = await mesh.start("a", "b")
    service = Service(mesh, "b", concurrency=1)
    service.takes_s = 60
    await mesh.run_for(seconds=SPREADS_S)
    first, second = (asyncio.ensure_future(outcome(a, n, timeout=60)) for n in (1, 2))
    await mesh.run_for(seconds=1)
    second.cancel()
    first.cancel()
    await mesh.run_for(seconds=1)
    assert first.cancelled()
    assert service.cancelled == service.handled == [1]
    service.takes_s = 0
    assert await outcome(a, 3) == "done"


@seeds(5)
async def test_beyond_the_line_the_caller_hears_of_the_overload_and_others_are_tried(
    mesh: Mesh,
) -> None:
    a, *_ = await mesh.start("a", "b", "c")
    busy = Service(mesh, "b", concurrency=2, waiting=3)
    busy.takes_s = 1.0
    await mesh.run_for(seconds=SPREADS_S)
    outcomes = await asyncio.gather(*(outcome(a, number) for number in range(8)))
    assert Counter(outcomes) == {"done": 5, "OverloadedError": 3}
    assert busy.most == 2
    spare = Service(mesh, "c", concurrency=10)
    await mesh.run_for(seconds=SPREADS_S)
    outcomes = await asyncio.gather(*(outcome(a, number) for number in range(12)))
    assert set(outcomes) == {"done"}
    assert len(spare.handled) >= 6


@seeds(5)
async def test_a_responder_that_is_killed_is_told_of_before_the_timeout(mesh: Mesh) -> None:
    a, *_ = await mesh.start("a", "b", "c")
    service = Service(mesh, "b")
    service.takes_s = 1_000
    await mesh.run_for(seconds=SPREADS_S)
    asked = asyncio.ensure_future(a.request("work", 1, timeout=1_000))
    await mesh.run_for(seconds=1)
    began = mesh.now
    mesh.crash("b")
    with pytest.raises(ResponderGoneError, match="'b'"):
        await asked
    assert mesh.now - began < 60
    with pytest.raises(NoResponderError):
        await a.request("work", 2)
    service.takes_s = 0
    await mesh.restart("b")
    await mesh.run_for(seconds=SPREADS_S)
    assert await outcome(a, 3) == "done"


@seeds(5)
async def test_a_responder_that_restarts_quickly_is_told_of_too(mesh: Mesh) -> None:
    a, *_ = await mesh.start("a", "b", "c")
    service = Service(mesh, "b")
    service.takes_s = 1_000
    await mesh.run_for(seconds=SPREADS_S)
    asked = asyncio.ensure_future(outcome(a, 1, timeout=1_000))
    await mesh.run_for(seconds=1)
    mesh.crash("b")
    await mesh.restart("b")
    await mesh.run_for(seconds=10)
    assert asked.done()
    assert asked.result() == "ResponderGoneError"


@seeds(5)
async def test_a_caller_that_dies_frees_its_place_at_the_responder(mesh: Mesh) -> None:
    a, _, c = await mesh.start("a", "b", "c")
    service = Service(mesh, "b", concurrency=1)
    service.takes_s = 1_000
    await mesh.run_for(seconds=SPREADS_S)
    asked = mesh.run("a", outcome(a, 1, timeout=900))
    await mesh.run_for(seconds=1)
    mesh.crash("a")
    await mesh.run_for(seconds=60)
    assert asked.cancelled()
    assert service.cancelled == [1]
    service.takes_s = 0
    assert await outcome(c, 2) == "done"


@seeds(5)
async def test_a_split_ends_requests_in_time_and_the_heal_needs_no_restart(mesh: Mesh) -> None:
    a, *_ = await mesh.start("a", "b", "c")
    far = Service(mesh, "c")
    await mesh.run_for(seconds=SPREADS_S)
    mesh.partition({"a", "b"}, {"c"})
    began = mesh.now
    with pytest.raises(RequestTimeoutError, match="within 3 s"):
        await a.request("work", 1, timeout=3)
    assert 2.9 < mesh.now - began < 3.1
    await mesh.run_for(seconds=60)
    assert await outcome(a, 2) == "NoResponderError"
    near = Service(mesh, "b")
    await mesh.run_for(seconds=SPREADS_S)
    assert await outcome(a, 3) == "done"
    mesh.heal()
    await mesh.run_for(seconds=90)
    outcomes = await asyncio.gather(*(outcome(a, number) for number in range(10, 30)))
    assert set(outcomes) == {"done"}
    assert near.handled
    assert set(far.handled) & set(range(10, 30))


@seeds(10)
async def test_a_network_that_loses_repeats_and_reorders_makes_no_handler_run_twice(
    mesh: Mesh,
) -> None:
    a, *_ = await mesh.start("a", "b", "c")
    services = [Service(mesh, name) for name in ("b", "c")]
    await mesh.run_for(seconds=SPREADS_S)
    mesh.network.change_default(loss=0.1, duplicate=0.3, reorder=0.3)
    outcomes = [asyncio.ensure_future(outcome(a, n, timeout=2)) for n in range(200)]
    await mesh.run_for(seconds=5)
    handled = Counter(body for service in services for body in service.handled)
    assert max(handled.values()) == 1
    results = [each.result() for each in outcomes]
    assert set(results) <= {"done", "RequestTimeoutError", "OverloadedError"}
    assert results.count("done") > 100
    assert all(handled[n] == 1 for n, result in enumerate(results) if result == "done")


@seeds(5)
async def test_a_node_that_closes_lets_handlers_finish_and_sends_the_rest_elsewhere(
    mesh: Mesh,
) -> None:
    a, b, _ = await mesh.start("a", "b", "c")
    closing = Service(mesh, "b", concurrency=2)
    closing.takes_s = 2.0
    await mesh.run_for(seconds=SPREADS_S)
    asked = [asyncio.ensure_future(outcome(a, n, timeout=20)) for n in range(6)]
    await mesh.run_for(seconds=0.5)
    other = Service(mesh, "c")
    await mesh.run_for(seconds=1)
    await mesh.stop("b")
    assert [await each for each in asked] == ["done"] * 6
    assert len(closing.ended) == 2
    assert len(other.ended) == 4
    with pytest.raises(ClosedNodeError):
        await b.request("work", 1)


@seeds(5)
async def test_a_responder_that_is_closed_answers_no_more_and_may_be_opened_again(
    mesh: Mesh,
) -> None:
    a, b = await mesh.start("a", "b")

    async def echo(request: Request) -> object:
        return [request.body, request.sender, request.responder, request.remaining > 1]

    responder = b.respond("echo", echo)
    await mesh.run_for(seconds=SPREADS_S)
    assert await a.request("echo", b"raw") == [b"raw", "a", "echo", True]
    responder.close()
    responder.close()
    await mesh.run_for(seconds=SPREADS_S)
    with pytest.raises(NoResponderError):
        await a.request("echo", 1)
    b.respond("echo", echo)
    await mesh.run_for(seconds=SPREADS_S)
    assert await a.request("echo", 1) == [1, "a", "echo", True]


@seeds(5)
async def test_a_leaf_asks_and_answers_over_the_links_that_it_dialled(mesh: Mesh) -> None:
    a, _ = await mesh.start("a", "b")
    Service(mesh, "b")
    leaf = await mesh.join("phone", leaf=True)
    await mesh.run_for(seconds=5)
    assert await outcome(leaf, 1) == "done"
    service = Service(mesh, "phone", name="camera")
    await mesh.run_for(seconds=SPREADS_S)
    assert await a.request("camera", "click") == {"done": "click"}
    assert service.handled == ["click"]


@seeds(3)
async def test_a_paused_responder_answers_late_or_never_but_never_twice(mesh: Mesh) -> None:
    a, *_ = await mesh.start("a", "b")
    service = Service(mesh, "b")
    await mesh.run_for(seconds=SPREADS_S)
    mesh.pause("b")
    assert await outcome(a, 1, timeout=1) == "RequestTimeoutError"
    asked = asyncio.ensure_future(outcome(a, 2, timeout=10))
    await mesh.run_for(seconds=2)
    mesh.resume("b")
    assert await asked == "done"
    await mesh.run_for(seconds=5)
    assert service.handled.count(2) == 1
    assert service.handled.count(1) <= 1
