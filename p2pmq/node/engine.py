"""A node's life: its ports opened and closed, its driver fed, and what the driver tells.

`start` opens the store, listens, meets the mesh; `close` drains the outbox,
and stores what is left. What users call stands in `node.Node`, on top of this.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

from p2pmq.config import Config, NodeSettings
from p2pmq.core import effects, events
from p2pmq.core.ids import ID_BYTES, total
from p2pmq.core.membership import MemberState
from p2pmq.core.packets.link import ADDRESSES_MAX, REFUSED_NAME_TAKEN, REFUSED_VERSION, Hello
from p2pmq.core.packets.membership import Rumour
from p2pmq.core.spreading import share_of
from p2pmq.discovery.base import Announcement
from p2pmq.errors import (
    ClosedNodeError,
    NameTakenError,
    NodeFailedError,
    P2PMQError,
    VersionRefusedError,
)
from p2pmq.node.arguments import check_name, to_ms
from p2pmq.node.batches import KnownTerms
from p2pmq.node.consumer import Consumer
from p2pmq.node.cron import Calendar
from p2pmq.node.emitter import Emitter
from p2pmq.node.farewell import let_handlers_finish, tell_what_is_left
from p2pmq.node.handlers import Handler
from p2pmq.node.publisher import Publisher
from p2pmq.node.receipts import overflow_of
from p2pmq.node.requests import RequestDesk
from p2pmq.node.wanted import Wanted
from p2pmq.observe.counters import CalmLog, Counters
from p2pmq.runtime.driver import Driver
from p2pmq.runtime.links import Links
from p2pmq.runtime.world import real_world

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType
    from typing import Literal, Self

    from p2pmq.core.ids import ConsumerId, JobId, NodeId, PartitionKey
    from p2pmq.core.packets.delivering import Segment
    from p2pmq.core.packets.publishing import Bodies
    from p2pmq.core.records import Recovered
    from p2pmq.discovery.base import Discovery, Sighting
    from p2pmq.net.base import Transport
    from p2pmq.node.receipts import Overflow
    from p2pmq.runtime.world import World
    from p2pmq.store.base import Store


log = logging.getLogger("p2pmq")

LEFT = {
    "expired": "have left it, for their time to live is over",
    "purged": "have left it, for it was purged",
    "deleted": "have gone with it, for it was deleted",
    "copies_deleted": "of which copies were here have gone with it, for it was deleted",
    "overflow": "have left it, the oldest, for it was at its limit",
}
"""How messages left a queue without an ack."""
GOODBYE_S = 0.05
"""How long the last packets have to leave; whoever misses them finds out by probing."""


class Engine:
    """One node that can be started and stopped; `Node` adds what it is good for."""

    def __init__(
        self,
        name: str,
        *,
        mesh: str = "default",
        listen: str = "127.0.0.1:0",
        seeds: Iterable[str] = (),
        mdns: bool = True,
        store: Literal["disk", "memory"] = "disk",
        data_dir: str | None = None,
        leaf: bool = False,
        zone: str = "",
        weight: int = 1,
        insecure: bool = False,
        config: Config | None = None,
        on_overflow: Callable[[Overflow], object] | None = None,
        world: World | None = None,
    ) -> None:
        check_name("node", name)
        check_name("mesh", mesh)
        self.settings = NodeSettings(
            name=name,
            mesh=mesh,
            listen=listen,
            seeds=tuple(seeds),
            mdns=mdns,
            store=store,
            data_dir=data_dir,
            leaf=leaf,
            zone=zone,
            weight=0 if leaf else weight,
            insecure=insecure,
            config=config if config is not None else Config(),
        )
        self._world: World = world if world is not None else real_world()
        self._on_overflow = on_overflow
        self._codec = self._world.codec()
        self._state = "not started"
        self._known_terms = KnownTerms()
        self._draining = self._closing = False
        """Draining: handlers may finish; nobody begins to consume."""
        self._error: BaseException | None = None
        self.counters = Counters()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._next_token = -1
        self._consumers: dict[ConsumerId, Consumer] = {}
        self._handlers: list[Handler] = []
        self._handling: set[asyncio.Task[None]] = set()
        self._requests = RequestDesk()
        self._met: asyncio.Event = asyncio.Event()
        self._stopped: asyncio.Event = asyncio.Event()
        self._refusal: tuple[int, str, str] | None = None
        self._version_refusal: tuple[str, str] | None = None
        self.addresses: tuple[str, ...] = ()

    # -- life --

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Open the store, listen, and meet the mesh; alone, the node goes on after a moment.

        Raises DataDirectoryError, PortTakenError, InsecureListenError,
        NameTakenError, VersionRefusedError and their kin; then nothing is left open.
        """
        if self._state != "not started":
            raise ClosedNodeError(self.settings.name, self._state)
        self._state = "starting"
        self._draining = self._closing = False
        self._error = self._refusal = self._version_refusal = None
        self._met = asyncio.Event()  # a start that failed may have been on another loop
        self._stopped.clear()
        self._loop = self._world.loop()
        self._calm_log = CalmLog(log, self._loop.time)
        self._ports = contextlib.AsyncExitStack()
        try:
            self._store: Store = self._world.store(self.settings)
            recovered = await self._store.open()
            self._ports.push_async_callback(self._store.close)
            await self._open_ports(recovered)
            await self._meet()
            self._state = "running"
            self._requests.open(
                self._driver.feed,
                self._loop,
                self.settings.config.limits.body_bytes_max,
                self._wanted,
                self._name_of,
                self.counters.add,
            )
        except BaseException:
            await self._shut("not started")
            raise
        if self.settings.store == "memory" and not self.settings.leaf:
            log.warning(
                "node %s keeps its queues in memory: what it confirms as committed is lost with "
                "its process (store='disk' keeps it, leaf=True owns no queue)",
                self.settings.name,
            )

    async def _open_ports(self, recovered: Recovered) -> None:
        settings = self.settings
        self.node_id = recovered.node_id
        self._boot = recovered.boot
        self._store_id = recovered.store_id
        self._transport: Transport = self._world.transport(
            settings, recovered.node_id, recovered.boot, self.counters.add
        )
        self._ports.push_async_callback(self._transport.close)
        limits = settings.config.limits
        self._driver = Driver(self._store, self, self._loop, self._world.wall_clock)
        self._links = Links(
            self._transport, self._driver, limits, self._loop, self._hello, self._codec
        )
        self._ports.callback(self._links.close)
        self._ports.callback(self._driver.stop)
        self._publisher = Publisher(
            self._driver.feed,
            self._loop,
            limits,
            self._name_of,
            self._wanted_of,
            policy=settings.config.outbox,
            report=self._on_held_back,
            first_turn=int.from_bytes(recovered.node_id) + recovered.boot,
        )
        self._wanted = Wanted(self._driver.feed, self._loop)
        self._emitter = Emitter(
            settings.name,
            self._driver.feed,
            self._loop,
            limits.body_bytes_max,
            self._wanted,
            self.counters.add,
        )
        self.addresses = (await self._transport.open(self._links))[:ADDRESSES_MAX]
        self._links.renew_hello()
        own = Rumour(
            recovered.node_id,
            MemberState.ALIVE,
            recovered.incarnation,
            name=settings.name,
            addresses=self.addresses,
            boot=recovered.boot,
            store_id=recovered.store_id,
            zone=settings.zone,
            weight=settings.weight,
        )
        session = self._world.random_bytes(ID_BYTES)
        self._machine = self._world.machine(own, settings.mesh, session, settings.config)
        self._machine.firing.clockwork = Calendar()
        started = events.Started(recovered, self.addresses, self._driver.wall_offset_ms())
        self._driver.start(self._machine, self._links, started)
        self._discovery: Discovery = self._world.discovery(settings)
        self._ports.push_async_callback(self._discovery.close)
        announcement = Announcement(
            settings.mesh, self.node_id, settings.name, self.addresses, self._codec.versions
        )
        await self._discovery.start(announcement, self._on_sighting)

    async def _meet(self) -> None:
        """Wait to meet somebody, or until it is plain that nobody is there."""
        if self._error is not None:
            raise self._error
        timing = self.settings.config.timing
        if not self.settings.seeds and not self.settings.mdns and not self._has_known_members():
            return
        deadline = self._loop.time() + timing.name_claim_ms / 1000
        patience_s = timing.join_timeout_ms / 1000
        while not self._met.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await self._met.wait()
            if self._error is not None:
                raise self._error
            if self._refusal is None:
                if self._version_refusal is not None and not self._met.is_set():
                    raise VersionRefusedError(self.settings.name, *self._version_refusal)
                return
            _, _, address = self._refusal
            if self._loop.time() >= deadline:
                raise NameTakenError(self.settings.name, self.settings.mesh, address)
            self._refusal = None
            self._links.try_address(address)

    def _has_known_members(self) -> bool:
        return any(m.node_id != self.node_id for m in self._machine.swim.roster())

    async def leave(self, timeout: float | None = None) -> None:  # noqa: ASYNC109  bounds a handover
        """Leave the mesh for good: consume no more, empty the outbox, hand over every queue.

        A node that only stops (`close`) keeps its place, and its messages are
        there again when it starts again. Handlers finish as in `close`. `timeout`
        (seconds) is for each of the three; what is left then stays on this node's disk.
        """
        self._check_running()
        self._draining = True
        await self._stop_consuming(timeout)  # first: the others free what a node that left held
        await self._flushed(timeout)  # before: who has left hears no news of owners any more
        token, future = self._wait_token()
        timeout_ms = self._timeout_ms(timeout, self.settings.config.timing.drain_timeout_ms)
        self._driver.feed(events.LeaveRequested(timeout_ms, token))
        await future

    async def close(self, timeout: float | None = None) -> None:  # noqa: ASYNC109  the drain's
        """Drain and stop; what the outbox still holds then is stored, and said in the log.

        Consumers get no more messages; handlers have until `timeout` (seconds) to settle those that
        they are at, and may publish meanwhile. What was not given to them goes to others at once.
        """
        if self._state != "running" or self._closing:
            return
        self._closing = self._draining = True
        if timeout is None:
            timeout = self.settings.config.timing.drain_timeout_ms / 1000
        deadline = self._loop.time() + timeout
        try:
            await self._stop_consuming(timeout)
            timeout = max(0.0, deadline - self._loop.time())
            self._state = "closing"
            self._emitter.end()
            self._requests.end()
            with contextlib.suppress(P2PMQError):  # it fails just now: on_failed has said so
                if self._error is None:
                    tell_what_is_left(await self._flushed(timeout), self.settings)
                if self._error is None:
                    await self._say_goodbye()
        finally:
            await self._shut("closed")

    async def _stop_consuming(self, timeout: float | None) -> None:  # noqa: ASYNC109  as above
        """Let handlers finish; what they have not done by then, somebody else does."""
        if timeout is None:
            timeout = self.settings.config.timing.drain_timeout_ms / 1000
        await let_handlers_finish(list(self._consumers.values()), self._requests, timeout)
        for consumer in list(self._consumers.values()):
            consumer.close()
            consumer.end()

    @property
    def has_stopped(self) -> bool:
        """Whether it has stopped: closed, aborted, or by an error (`wait_stopped` raises it)."""
        return self._stopped.is_set()

    async def wait_stopped(self) -> None:
        """Wait until the node has stopped, for as long as that takes.

        Returns when it was closed or aborted. Raises the error that made it
        stop by itself: StoreError, or NodeFailedError.
        """
        await self._stopped.wait()
        if self._error is not None:
            raise self._error

    def abort(self) -> None:
        """Stop at once, as a crash would: nothing is drained, nothing more is written.

        For tests and simulations of one's own; the ports are left to the world.
        """
        if self._state == "closed":
            return
        self._state = "closed"
        if hasattr(self, "_driver"):
            self._driver.stop()
            self._links.close()
        self._fail_all(ClosedNodeError(self.settings.name, "aborted"))

    async def flush(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109  the drain's
        """Wait until all that was published is committed and all acks are confirmed.

        Returns False when `timeout` (seconds) was over first; what is left then
        is on this node's disk, and goes on being sent.
        """
        self._check_running()
        flushed = await self._flushed(timeout)
        return not flushed.messages_left and not flushed.settles_left

    async def _flushed(self, timeout: float | None) -> effects.Flushed:  # noqa: ASYNC109  as above
        self._publisher.flush()
        token, future = self._wait_token()
        timeout_ms = self._timeout_ms(timeout, self.settings.config.timing.drain_timeout_ms)
        self._driver.feed(events.FlushRequested(timeout_ms, token))
        flushed: effects.Flushed = await future
        return flushed

    async def _say_goodbye(self) -> None:
        """Tell the others, and give the packets a moment: sockets close without lingering.

        A leaf holds nothing that it could come back to, so that it leaves; a
        full node keeps its place, and is only said to be away.
        """
        token, future = self._wait_token()
        if self.settings.leaf:
            self._driver.feed(events.LeaveRequested(0, token))
        else:
            self._driver.feed(events.StopRequested(token))
        await future
        await asyncio.sleep(GOODBYE_S)

    async def _shut(self, state: str) -> None:
        """Close every port that is open, in the order opposite to opening."""
        try:
            await self._ports.aclose()
        finally:
            self._state = state
            self._fail_all(ClosedNodeError(self.settings.name, "closed"))

    # -- what the driver tells --

    def on_deliver(self, consumer: ConsumerId, segments: tuple[Segment, ...]) -> None:
        """Messages for one of our consumers."""
        found = self._consumers.get(consumer)
        if found is not None and not found.closed:
            found.on_deliver(segments)

    def on_emitted(self, peer: NodeId, topics: tuple[str, ...], bodies: Bodies) -> None:
        """Events for our subscriptions."""
        self._emitter.on_emitted(self._name_of(peer) or "", topics, bodies)

    def on_handle(self, request: effects.Handle) -> None:
        """A request for one of our responders."""
        self._requests.on_handle(request)

    def on_stop_handling(self, job_id: JobId) -> None:
        """Nobody waits for a request any more."""
        self._requests.on_stop_handling(job_id)

    def on_resolve(self, token: int, outcome: effects.Outcome) -> None:
        """A request has ended."""
        if isinstance(outcome, effects.Published):
            self._publisher.on_resolve(token, outcome)
            return
        future = self._waiting.pop(token, None)
        if future is not None and not future.done():
            future.set_result(outcome)

    def on_notice(  # noqa: C901 - one case for each notice
        self, notice: effects.Notice
    ) -> None:
        """Count it, and log what a person should know."""
        match notice:
            case effects.Counted(what, count, text, alarming):
                self.counters.add(what, count)
                if alarming:
                    self._calm_log.warning(what, text)
                elif text:
                    log.debug("%s: %s: %s", self.settings.name, what, text)
            case effects.Expired() | effects.Discarded():
                self._tell_left(notice)
            case effects.Deduplicated() | effects.TracesGone():
                what = "deduplicated" if type(notice) is effects.Deduplicated else "traces_gone"
                self.counters.add(what, total(notice.runs))
            case effects.Buried():
                self._tell_buried(notice)
            case effects.OutboxChanged(bytes_held, bytes_total):
                self._publisher.on_outbox_changed(bytes_held, bytes_total)
            case effects.Overflowed():
                self._tell_overflow(notice)
            case effects.PartitionsRaised(queue):
                self._loop.call_soon(self._on_raised, queue)
            case effects.MemberNotice(node_id, name, state, address):
                shown = MemberState(state).name.lower()
                self.counters.add(f"member_{shown}")
                log.info("%s: member %s (%s) is %s", self.settings.name, name, address, shown)
                if node_id != self.node_id and state == MemberState.ALIVE:
                    self._met.set()

    def _on_raised(self, queue: str) -> None:
        """A queue has more partitions than it had: consume them, too."""
        for consumer in list(self._consumers.values()):
            if consumer.queue == queue and not (consumer.closed or self._draining):
                self._attach_parts(consumer)

    def _attach_parts(self, head: Consumer) -> None:
        """Consume each partition that is not consumed yet with its share of the prefetch."""
        if head.attach is None:
            return  # another is its head
        places = self._machine.partitions_of(head.queue)
        share = share_of(head.prefetch, len(places))
        for place in places[len(head.parts) :]:
            head.attach(place, share)

    def _tell_left(self, notice: effects.Expired | effects.Discarded) -> None:
        what = notice.reason if isinstance(notice, effects.Discarded) else "expired"
        count = total(notice.runs)
        self.counters.add(what, count)
        self._calm_log.warning(what, f"queue {notice.key.queue!r}: {count} messages {LEFT[what]}")

    def _tell_buried(self, notice: effects.Buried) -> None:
        count = total(notice.runs)
        what = notice.reason.replace("-", "_")
        self.counters.add(what, count)
        text = f"queue {notice.key.queue!r}: {count} messages "
        if notice.into:
            self._calm_log.warning(what, f"{text}moved to {notice.into!r} ({notice.reason})")
        else:
            self.counters.add("dead_letter_dropped", count)
            self._calm_log.warning(what, f"{text}dropped ({notice.reason}): {notice.why}")

    def _on_held_back(self, notice: effects.Overflowed) -> None:
        """The publisher's desk refuses messages, or lets them wait; the core does not know."""
        queue, count = notice.key.queue, notice.count
        text = f"{count} messages for queue {queue!r} {notice.action}: the outbox is full"
        self.on_notice(effects.Counted(f"outbox_{notice.action}", count, text, alarming=True))
        self.on_notice(notice)

    def _tell_overflow(self, notice: effects.Overflowed) -> None:
        self.counters.add(notice.reason, notice.count)
        if self._on_overflow is None:
            return
        try:
            self._on_overflow(overflow_of(notice))
        except Exception:
            log.exception("node %s goes on: its on_overflow callback raised", self.settings.name)

    def on_refused(self, reason: int, text: str, address: str) -> None:
        """A peer does not want us."""
        self.counters.add("hello_was_refused")
        if reason == REFUSED_NAME_TAKEN:
            self._refusal = (reason, text, address)
        elif reason == REFUSED_VERSION:
            self._version_refusal = (text, address)
        self._calm_log.warning("refused", f"the node at {address} refused this one: {text}")

    def on_failed(self, error: BaseException) -> None:
        """The node cannot go on; everybody who waits gets the error."""
        log.error("node %s stops: %s", self.settings.name, error, exc_info=error)
        if not isinstance(error, P2PMQError):
            fault = NodeFailedError(self.settings.name, repr(error))
            fault.__cause__ = error
            error = fault
        self._error = error
        self._met.set()
        self._fail_all(error)

    # -- within --

    def _hello(self, *, answer: bool) -> Hello:
        return Hello(
            self.settings.mesh,
            self.node_id,
            self._boot,
            self.settings.name,
            self.addresses,
            *self._codec.versions,
            leaf=self.settings.leaf,
            answer=answer,
        )

    def _on_sighting(self, sighting: Sighting) -> None:
        self.counters.add(f"sighting_{sighting.source}")
        self._links.try_address(sighting.address)

    def _wanted_of(self, key: PartitionKey) -> int:
        return self._machine.homes_of(key)[1]

    def _name_of(self, node_id: NodeId | None) -> str | None:
        if node_id is None:
            return None
        member = self._machine.swim.members.get(node_id)
        return member.name if member is not None else node_id.hex()

    def _wait_token(self) -> tuple[int, asyncio.Future[Any]]:
        """A token for a request other than a publish: those count upwards, these downwards."""
        token = self._next_token
        self._next_token -= 1
        future = self._waiting[token] = self._loop.create_future()
        return token, future

    def _timeout_ms(self, seconds: float | None, default_ms: int) -> int:
        return default_ms if seconds is None else to_ms(seconds)

    def _check_running(self) -> None:
        if self._error is not None:
            raise ClosedNodeError(self.settings.name, f"stopped ({self._error})") from self._error
        if self._state != "running":
            raise ClosedNodeError(self.settings.name, self._state)

    def _fail_all(self, error: BaseException) -> None:
        self._stopped.set()
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(error)
                future.exception()  # whoever awaits it gets it; nobody need
        for consumer in list(self._consumers.values()):
            consumer.fail(error)
        if hasattr(self, "_publisher"):
            self._publisher.fail(error)
            self._emitter.fail(error)
        self._requests.end()
