"""Links: one to each peer, over whichever connections there are to it.

A connection becomes part of a link once both ends have said Hello. Packets
leave in lanes (`lanes`): control at once, bulk (message bodies) within a window
of bytes that the peer has not yet taken in, so that a probe never waits behind
more than that, whatever the transport buffers.

Invariant: what is handed to the transport of bulk and not yet reported as
taken in is at most the window, or one packet.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from p2pmq.core.packets.emitting import Emit
from p2pmq.core.packets.link import (
    REFUSALS,
    REFUSED_NAME_TAKEN,
    REFUSED_OTHER_MESH,
    REFUSED_SELF,
    REFUSED_VERSION,
    Hello,
    HelloRefused,
    HelloWanted,
    WindowUpdate,
)
from p2pmq.net.base import SendResult
from p2pmq.runtime.lanes import Lanes
from p2pmq.wire.codec import CODEC, PacketError

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, TimerHandle
    from collections.abc import Callable

    from p2pmq.config import Limits
    from p2pmq.core.ids import NodeId
    from p2pmq.core.packets.registry import Packet
    from p2pmq.net.base import Connection, Transport
    from p2pmq.wire.codec import Codec

log = logging.getLogger(__name__)

HELLO_INTERVAL_S = 1.0
"""How often Hello is said on a dialled connection until it is answered."""
HELLOS_MAX = 5
"""A dialled address that has not answered by then is given up (and may be dialled anew)."""
WINDOW_STALL_S = 1.0
"""No report from the peer for this long with a full window: what was sent is taken for lost."""
HELLO_WANTED_INTERVAL_S = 1.0
REFUSAL_TEXT_MAX = 200
UNKNOWN_PACKET = "unknown-packet"


class LinkEvents(Protocol):
    """Who hears from the links."""

    def on_packet(self, peer: NodeId, packet: Packet) -> None:
        """A well-formed packet came."""

    def on_peer_connected(self, hello: Hello) -> None:
        """A link is up, or its peer has restarted."""

    def on_peer_disconnected(self, peer: NodeId) -> None:
        """The last connection to the peer is gone."""

    def on_refused(self, reason: int, text: str, address: str) -> None:
        """The other side refused our Hello."""

    def counted(self, what: str, count: int = 1) -> None:
        """Something worth a metric happened."""

    def on_malformed(self, reason: str, text: str) -> None:
        """A peer's packet did not decode; it was dropped."""

    def resolved(self, packet: Packet) -> Packet | None:
        """The packet with its bodies read from the store; None if they cannot be read."""

    def name_holder(self, name: str, node_id: NodeId) -> str | None:
        """The address of a living member with that name, if it is taken for this node id."""


@dataclass(slots=True)
class ConnectionState:
    """What is known of one connection."""

    address: str | None
    """Where we dialled; None for one that came in."""
    hello: Hello | None = None
    up: bool = False
    patience: TimerHandle | None = None
    hello_wanted_at: float = -HELLO_WANTED_INTERVAL_S
    hellos: int = 0
    bulk_received: int = 0
    bulk_reported: int = 0
    bulk_sent: int = 0
    bulk_taken: int = 0
    bulk_told: int = 0
    """The last report of the peer's counter …"""
    bulk_lost: int = 0
    """… and how far it lags behind ours because of bytes that never came."""

    def reset(self) -> None:
        """Both ends count from the start again."""
        self.hello = None
        self.hellos = 0
        self.bulk_received = self.bulk_reported = self.bulk_sent = self.bulk_taken = 0
        self.bulk_told = self.bulk_lost = 0


@dataclass(slots=True)
class Link:
    """The link to one peer."""

    peer: NodeId
    addresses: tuple[str, ...] = ()
    boot: int = 0
    version: int = 0
    """The latest protocol version that both ends speak; 0 before the first Hello."""
    connections: list[Connection] = field(default_factory=list)
    lanes: Lanes = field(default_factory=Lanes)
    full: bool = False
    stall: TimerHandle | None = None
    used_at: float = 0.0
    learned: bool = False
    """The core knows the peer: its addresses are kept while it is not connected."""


class Links:
    """All links of this node; it is the transport's handler."""

    def __init__(
        self,
        transport: Transport,
        events: LinkEvents,
        limits: Limits,
        loop: AbstractEventLoop,
        make_hello: Callable[..., Hello],
        codec: Codec = CODEC,
    ) -> None:
        self._transport = transport
        self._events = events
        self._limits = limits
        self._loop = loop
        self._make_hello = make_hello
        self._codec = codec
        self._own = make_hello(answer=False)
        self._connections: dict[Connection, ConnectionState] = {}
        self._links: dict[NodeId, Link] = {}
        self._own_addresses: dict[str, None] = dict.fromkeys(self._own.addresses)

    # -- what the driver asks --

    def renew_hello(self) -> None:
        """Who we are has changed (our addresses are known now)."""
        self._own = self._make_hello(answer=False)
        self._own_addresses = dict.fromkeys(self._own.addresses)

    def learn(self, peer: NodeId, addresses: tuple[str, ...]) -> None:
        """Where a peer can be dialled; nowhere: forget it once its connections end."""
        link = self._links.get(peer)
        if link is None:
            if not addresses:
                return
            link = self._links[peer] = Link(peer)
        link.addresses = addresses
        link.learned = bool(addresses)
        self._forget_if_unknown(link)

    def try_address(self, address: str) -> None:
        """Dial an address that somebody may listen on, unless it is known to be linked."""
        if address in self._own_addresses or self._is_linked(address):
            return
        self._dial(address)

    def send(self, peer: NodeId, packet: Packet) -> None:
        """Send or queue a packet; without any way to the peer it is dropped and counted."""
        link = self._links.get(peer)
        if link is None or (not link.connections and not link.addresses):
            self._events.counted("packet_dropped_no_address")
            if type(packet) is Emit:
                self._events.counted("emits_dropped", packet.batch.count)
            return
        self._count_dropped(link.lanes.put(packet))
        if link.connections:
            self._flush(link)
        else:
            self._dial_link(link)

    def is_connected(self, peer: NodeId) -> bool:
        """Whether a link to the peer is up."""
        link = self._links.get(peer)
        return link is not None and bool(link.connections)

    def version_of(self, peer: NodeId) -> int | None:
        """The protocol version agreed on with a peer whose link is up."""
        link = self._links.get(peer)
        return link.version if link is not None and link.connections else None

    def close(self) -> None:
        """Forget every timer; the transport closes the connections."""
        for state in self._connections.values():
            if state.patience is not None:
                state.patience.cancel()
        for link in self._links.values():
            if link.stall is not None:
                link.stall.cancel()

    # -- what the transport tells --

    def on_opened(self, connection: Connection, *, dialled: bool) -> None:
        """Say Hello on what we dialled; on the others wait for theirs."""
        state = self._connections.setdefault(connection, ConnectionState(None))
        state.up = True
        self._unlink(connection, state)
        state.reset()
        if dialled:
            self._send_raw(connection, self._own)
            if state.patience is None:
                self._be_patient(connection, state)

    def on_closed(self, connection: Connection) -> None:
        """Take the connection out of its link; a dialled one has a while to come back."""
        state = self._connections.get(connection)
        if state is None:
            return
        state.up = False
        self._unlink(connection, state)
        if state.address is None:
            del self._connections[connection]
        elif state.patience is None:
            self._be_patient(connection, state)

    def on_writable(self, connection: Connection) -> None:
        """The pipe has room again."""
        state = self._connections.get(connection)
        if state is not None and state.hello is not None:
            link = self._links.get(state.hello.node_id)
            if link is not None:
                link.full = False
                self._flush(link)

    def on_frames(self, connection: Connection, frames: list[bytes]) -> None:
        """Decode, and pass on; what does not decode is counted and dropped."""
        state = self._connections.get(connection)
        if state is None:
            return
        try:
            packet = self._codec.decode(frames)
        except PacketError as error:
            if error.reason == UNKNOWN_PACKET and self._is_later(state):
                self._events.counted("packet_of_later_version")
                return
            self._events.on_malformed(error.reason, f"from {self._name_of(state)}: {error}")
            return
        kind = type(packet)
        if kind is Hello:
            self._on_hello(connection, state, packet)  # type: ignore[arg-type]  # kind says so
        elif kind is HelloWanted:
            self._send_raw(connection, self._own)
        elif kind is HelloRefused:
            self._on_hello_refused(connection, state, packet)  # type: ignore[arg-type]  # as above
        elif state.hello is None:
            self._want_hello(connection, state)
        elif kind is WindowUpdate:
            self._on_window_update(state, packet)  # type: ignore[arg-type]  # as above
        else:
            if packet.BULK:
                self._count_bulk(connection, state, frames)
            self._events.on_packet(state.hello.node_id, packet)

    def _is_later(self, state: ConnectionState) -> bool:
        """Whether the other end speaks versions later than ours: it may say what we do not know."""
        return state.hello is not None and state.hello.version_max > self._own.version_max

    def _name_of(self, state: ConnectionState) -> str:
        """Who is at the other end, for the log."""
        if state.hello is not None:
            return f"node {state.hello.name!r}"
        return f"the node at {state.address}" if state.address else "a stranger"

    # -- Hello --

    def _on_hello(self, connection: Connection, state: ConnectionState, hello: Hello) -> None:
        refused = self._refusal(hello)
        if refused is not None:
            text = REFUSALS[refused]
            self._events.counted(f"hello_refused_{text.replace(' ', '_')}")
            if not hello.answer:
                if refused == REFUSED_VERSION:
                    text += f": it speaks {_versions(self._own)}, you {_versions(hello)}"
                self._send_raw(connection, HelloRefused(refused, text))
            if state.address is not None:
                if refused == REFUSED_SELF:
                    self._own_addresses[state.address] = None
                self._hang_up(connection)
            return
        if not hello.answer:
            self._send_raw(connection, self._make_hello(answer=True))
        if state.patience is not None:
            state.patience.cancel()
            state.patience = None
        if state.hello is not None and state.hello.node_id != hello.node_id:
            self._unlink(connection, state)  # it was somebody else's until now
        state.hello = hello
        self._join(connection, state, hello)

    def _refusal(self, hello: Hello) -> int | None:
        own = self._own
        if hello.mesh != own.mesh:
            return REFUSED_OTHER_MESH
        if hello.node_id == own.node_id:
            return REFUSED_SELF
        if hello.version_min > own.version_max or hello.version_max < own.version_min:
            return REFUSED_VERSION
        if self._events.name_holder(hello.name, hello.node_id):
            return REFUSED_NAME_TAKEN
        return None

    def _on_hello_refused(
        self, connection: Connection, state: ConnectionState, packet: HelloRefused
    ) -> None:
        if state.address is None:
            return
        if packet.reason == REFUSED_SELF:
            self._own_addresses[state.address] = None
        self._events.on_refused(packet.reason, _refusal_text(packet), state.address)
        self._hang_up(connection)

    def _want_hello(self, connection: Connection, state: ConnectionState) -> None:
        now = self._loop.time()
        if now - state.hello_wanted_at >= HELLO_WANTED_INTERVAL_S:
            state.hello_wanted_at = now
            self._send_raw(connection, HelloWanted())

    def _join(self, connection: Connection, state: ConnectionState, hello: Hello) -> None:
        """Make the connection part of the peer's link."""
        link = self._links.get(hello.node_id)
        if link is None:
            link = self._links[hello.node_id] = Link(hello.node_id)
        if hello.addresses:
            link.addresses = hello.addresses
        restarted = link.boot not in (0, hello.boot)
        if restarted:
            for old in [c for c in link.connections if c != connection]:
                self._hang_up(old)
            link = self._links.setdefault(hello.node_id, link)
        was_up = bool(link.connections)
        if connection not in link.connections:
            if state.address is not None and self._dialled(link):
                self._hang_up(connection)  # we have dialled this peer already
                return
            self._add(link, connection, state)
        link.boot = hello.boot
        link.version = min(hello.version_max, self._own.version_max)
        if not was_up or restarted:
            self._events.on_peer_connected(hello)
        self._flush(link)

    def _add(self, link: Link, connection: Connection, state: ConnectionState) -> None:
        """What we dialled comes first: its end is noticed at once."""
        if state.address is not None:
            link.connections.insert(0, connection)
        else:
            link.connections.append(connection)
        link.full = False

    # -- connections --

    def _is_linked(self, address: str) -> bool:
        if any(state.address == address for state in self._connections.values()):
            return True
        return any(address in link.addresses and link.connections for link in self._links.values())

    def _dialled(self, link: Link) -> bool:
        return any(self._connections[c].address is not None for c in link.connections)

    def _dial(self, address: str) -> None:
        connection = self._transport.dial(address)
        state = self._connections[connection] = ConnectionState(address)
        self._be_patient(connection, state)

    def _be_patient(self, connection: Connection, state: ConnectionState) -> None:
        state.patience = self._loop.call_later(HELLO_INTERVAL_S, self._on_impatience, connection)

    def _dial_link(self, link: Link) -> None:
        """Dial every address of the peer that is not being dialled."""
        under_way = {state.address: None for state in self._connections.values()}
        for address in link.addresses:
            if address not in under_way and address not in self._own_addresses:
                self._dial(address)
        self._close_least_used()

    def _close_least_used(self) -> None:
        dialled = sum(1 for state in self._connections.values() if state.address is not None)
        if dialled <= self._limits.links_max:
            return
        idle = [
            link for link in self._links.values() if self._dialled(link) and not link.lanes.bulk
        ]
        if idle:
            # Only what we dialled: the peer would go on to use, in vain, what it dialled itself.
            for connection in list(min(idle, key=lambda link: link.used_at).connections):
                if self._connections[connection].address is not None:
                    self._hang_up(connection)

    def _on_impatience(self, connection: Connection) -> None:
        """No answer yet: say Hello again, or give the address up."""
        state = self._connections.get(connection)
        if state is None:
            return
        state.patience = None
        state.hellos += 1
        if state.hellos < HELLOS_MAX:
            if state.up:
                self._send_raw(connection, self._own)
            self._be_patient(connection, state)
            return
        self._hang_up(connection)
        for link in self._links.values():
            if state.address in link.addresses and not link.connections:
                self._count_dropped(link.lanes.clear())

    def _hang_up(self, connection: Connection) -> None:
        state = self._connections.pop(connection, None)
        if state is None:
            return
        if state.patience is not None:
            state.patience.cancel()
        self._unlink(connection, state)
        self._transport.hang_up(connection)

    def _unlink(self, connection: Connection, state: ConnectionState) -> None:
        hello, state.hello = state.hello, None
        if hello is None:
            return
        link = self._links.get(hello.node_id)
        if link is None or connection not in link.connections:
            return
        link.connections.remove(connection)
        link.full = False
        self._calm(link)
        if not link.connections:
            self._count_dropped(link.lanes.clear_bulk())
            self._events.on_peer_disconnected(link.peer)
            self._forget_if_unknown(link)

    def _forget_if_unknown(self, link: Link) -> None:
        """Keep nothing of a peer that is not connected and that the core does not know (any more).

        Whoever says Hello has a link: without this, names that come and go would fill the memory.
        """
        if not link.learned and not link.connections:
            self._links.pop(link.peer, None)

    # -- sending --

    def _send_raw(self, connection: Connection, packet: Packet) -> None:
        if self._transport.send(connection, self._codec.encode(packet)) is not SendResult.SENT:
            self._events.counted("packet_dropped_greeting")

    def _flush(self, link: Link) -> None:
        """Send what may go: control first, then bulk within the window."""
        lanes, control = link.lanes, link.lanes.control
        while control and link.connections and not link.full:
            if not self._hand_over(link, self._codec.encode(control[0])):
                continue
            control.popleft()
        while link.connections and not link.full and (waiting := lanes.next_bulk()) is not None:
            state = self._connections[link.connections[0]]
            if state.bulk_sent - state.bulk_taken >= self._limits.link_window_bytes:
                self._watch_stall(link)
                return
            packet = self._events.resolved(waiting)
            if packet is None:
                lanes.taken(waiting)
                continue
            frames = self._codec.encode(packet)
            if self._hand_over(link, frames):
                lanes.taken(waiting)
                state.bulk_sent += sum(map(len, frames))

    def _count_dropped(self, dropped: dict[str, int]) -> None:
        for what, count in dropped.items():
            self._events.counted(what, count)

    def _hand_over(self, link: Link, frames: list[bytes]) -> bool:
        """Give one packet to the transport; whether it took it."""
        connection = link.connections[0]
        result = self._transport.send(connection, frames)
        if result is SendResult.SENT:
            link.used_at = self._loop.time()
            return True
        if result is SendResult.FULL:
            link.full = True
        else:
            self.on_closed(connection)
        return False

    # -- the window --

    def _count_bulk(
        self, connection: Connection, state: ConnectionState, frames: list[bytes]
    ) -> None:
        state.bulk_received += sum(map(len, frames))
        if state.bulk_received - state.bulk_reported >= self._limits.link_window_bytes // 4:
            state.bulk_reported = state.bulk_received
            self._send_raw(connection, WindowUpdate(state.bulk_received))

    def _on_window_update(self, state: ConnectionState, packet: WindowUpdate) -> None:
        """Note what the peer has taken in, by its counter.

        Where packets were lost on the way its counter lags behind ours, and one
        that began anew lies anywhere: a report of more than was sent, and a
        stall, set the two in step again.
        """
        assert state.hello is not None
        link = self._links.get(state.hello.node_id)
        if link is None:
            return
        state.bulk_told = packet.received
        state.bulk_lost = min(state.bulk_lost, state.bulk_sent - packet.received)
        state.bulk_taken = max(state.bulk_taken, packet.received + state.bulk_lost)
        self._calm(link)
        self._flush(link)

    def _watch_stall(self, link: Link) -> None:
        if link.stall is None:
            link.stall = self._loop.call_later(WINDOW_STALL_S, self._on_stall, link)

    def _on_stall(self, link: Link) -> None:
        link.stall = None
        self._events.counted("link_window_stalled")
        for connection in link.connections:
            state = self._connections[connection]
            state.bulk_taken = state.bulk_sent
            state.bulk_lost = state.bulk_sent - state.bulk_told
        self._flush(link)

    def _calm(self, link: Link) -> None:
        if link.stall is not None:
            link.stall.cancel()
            link.stall = None


def _refusal_text(packet: HelloRefused) -> str:
    """What to tell a person; where the peer's own words say more: no line breaks, not too much."""
    known = REFUSALS.get(packet.reason)
    if known is not None and packet.reason != REFUSED_VERSION:
        return known
    return ascii(packet.text[:REFUSAL_TEXT_MAX])[1:-1] or known or f"reason {packet.reason}"


def _versions(hello: Hello) -> str:
    first, last = hello.version_min, hello.version_max
    return f"protocol version {first}" if first == last else f"protocol versions {first} to {last}"
