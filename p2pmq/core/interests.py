"""Interests: which node wants which topics, its own and those of every living member.

Each node tells all the others which patterns it is interested in, under a
version that rises with every change and every boot. A change goes out as what
changed, to whoever knows what was before, else as a whole. Who is told answers
with the version that it knows; until it does it is told again, ever less
often. Who finds that it misses something (a packet shows a newer version, a
member is back whose interests it had dropped) asks, likewise again and again.
So any loss is made good, and a mesh that has settled sends nothing.

Invariant: `match` names living members only, and of each only patterns that
it had at one time, all of the same version.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from p2pmq.core.effects import Counted, Notify, Send
from p2pmq.core.packets.emitting import PATTERNS_MAX, InterestsChanged, InterestsKnown
from p2pmq.core.packets.emitting import Interests as InterestsPacket
from p2pmq.core.timers import Timers
from p2pmq.core.topics import Trie, is_pattern

if TYPE_CHECKING:
    from collections.abc import Iterable

    from p2pmq.core.effects import Effect
    from p2pmq.core.events import InterestsRequested
    from p2pmq.core.ids import NodeId

RETRY_MS = 200
"""Somebody who has not answered is told again after this, then twice as late each time …"""
RETRY_MS_MAX = 30_000
"""… but no later than this: who is cut off hears soon after the heal."""
MATCHES_MAX = 4_096
"""Topics whose matches are remembered until any interest changes; then, or when full, none are."""
BOOT_BITS = 32


@dataclass(slots=True)
class Peer:
    """One member: what it knows of this node's interests, and what is known of its own."""

    alive: bool = True
    sent: int = 0
    """The version that it was sent last; 0: none …"""
    told: int = 0
    """… and that it has said it knows."""
    whole_ms: int = -RETRY_MS
    tries: int = 0
    known: int = 0
    """The version of `patterns`; 0: nothing is known."""
    patterns: dict[str, None] = field(default_factory=dict)
    wanted: bool = False
    """It has interests that are not known here."""


class Interests:
    """The interests of this node and of its peers."""

    def __init__(self, boot: int) -> None:
        self._base = boot << BOOT_BITS
        self._changes = 0
        self._own: dict[str, None] = {}
        self._peers: dict[NodeId, Peer] = {}
        self._trie: Trie[NodeId] = Trie()
        self._matches: dict[str, tuple[NodeId, ...]] = {}
        self._timers: Timers[NodeId] = Timers()

    @property
    def version(self) -> int:
        """The version of this node's interests to show to others; 0: it never had any."""
        return self._base + self._changes if self._changes else 0

    def match(self, topic: str) -> tuple[NodeId, ...]:
        """The living members, beside this one, that are interested in a topic; sorted."""
        found = self._matches.get(topic)
        if found is None:
            if len(self._matches) >= MATCHES_MAX:
                self._matches.clear()
            found = self._matches[topic] = tuple(sorted(self._trie.match(topic)))
        return found

    def patterns_of(self, peer: NodeId) -> tuple[str, ...]:
        """What a member is interested in, as far as is known."""
        state = self._peers.get(peer)
        return tuple(state.patterns) if state is not None else ()

    # -- this node's own --

    def on_requested(self, event: InterestsRequested, now: int) -> list[Effect]:
        """Some patterns are new here, some are no more: tell everybody."""
        for pattern in event.removed:
            self._own.pop(pattern, None)
        for pattern in event.added:
            self._own[pattern] = None
        before = self._base + self._changes
        self._changes += 1
        changed = InterestsChanged(self.version, event.added, event.removed)
        effects: list[Effect] = []
        for peer, state in self._peers.items():
            if not state.alive:
                continue
            if state.sent == before:
                state.sent = self.version
                effects.append(Send(peer, changed))
            else:
                effects += self._tell(peer, state, now)
            self._try_again(peer, state, now, tries=0)
        return effects

    def _tell(self, peer: NodeId, state: Peer, now: int) -> list[Effect]:
        """Send all of it; not twice in a short while, whoever asks."""
        if now - state.whole_ms < RETRY_MS:
            return []
        state.whole_ms = now
        state.sent = self._base + self._changes
        return [Send(peer, InterestsPacket(state.sent, tuple(self._own)))]

    # -- members come and go --

    def on_roster(
        self, alive: Iterable[NodeId], roster: Iterable[NodeId], now: int
    ) -> list[Effect]:
        """The members that are alive now, beside this node, and all that are on the roster."""
        effects: list[Effect] = []
        living = dict.fromkeys(alive)
        for peer in living:
            state = self._peers.get(peer)
            if state is None or not state.alive:
                effects += self._greet(peer, now)
        kept = dict.fromkeys(roster)
        for peer in [peer for peer in self._peers if peer not in living]:
            self._drop(peer)
            if peer not in kept:
                del self._peers[peer]
        return effects

    def _greet(self, peer: NodeId, now: int) -> list[Effect]:
        """A member is there: it may have dropped what it knew, as this node did."""
        state = self._peers.setdefault(peer, Peer())
        state.alive = True
        state.sent = state.told = 0
        self._try_again(peer, state, now, tries=0)
        return self._say(peer, state, now)

    def _drop(self, peer: NodeId) -> None:
        """It is dead or gone: what it was interested in counts no more."""
        state = self._peers[peer]
        state.alive = False
        state.wanted = state.wanted or state.known > 0
        self._forget(peer, state)
        self._timers.clear(peer)

    def on_peer_connected(self, peer: NodeId, now: int, *, restarted: bool) -> list[Effect]:
        """A link is up: who does not know all is told at once; a new process knows nothing."""
        state = self._peers.get(peer)
        if state is None:
            return []
        if restarted:
            self._forget(peer, state)
            state.wanted = False
            state.sent = state.told = 0
        if not state.alive:
            return []
        state.whole_ms = now - RETRY_MS
        self._try_again(peer, state, now, tries=0)
        return self._say(peer, state, now)

    def _forget(self, peer: NodeId, state: Peer) -> None:
        for pattern in state.patterns:
            self._trie.remove(pattern, peer)
        if state.patterns:
            self._matches.clear()
        state.patterns = {}
        state.known = 0

    # -- packets --

    def on_interests(self, peer: NodeId, packet: InterestsPacket, now: int) -> list[Effect]:
        """All of a peer's interests. Who is no living member here says it again later."""
        state = self._peers.get(peer)
        if state is None or not state.alive:
            return [Notify(Counted("interests_early"))]
        if packet.version > state.known:
            if not all(map(is_pattern, packet.patterns)):
                return [_malformed(peer)]
            self._forget(peer, state)
            self._learn(peer, state, packet.version, packet.patterns)
        state.wanted = False
        self._calm(peer, state, now)
        return [Send(peer, InterestsKnown(state.known))]

    def on_changed(self, peer: NodeId, packet: InterestsChanged, now: int) -> list[Effect]:
        """What has changed of them; without what was before it is of no use."""
        state = self._peers.get(peer)
        if state is None or not state.alive:
            return [Notify(Counted("interests_early"))]
        if packet.version <= state.known:
            return [Send(peer, InterestsKnown(state.known))]
        if packet.version != state.known + 1 or not state.known:
            return self.on_version(peer, packet.version, now)
        gone = dict.fromkeys(pattern for pattern in packet.removed if pattern in state.patterns)
        count = len(state.patterns) - len(gone) + len(packet.added)
        if count > PATTERNS_MAX or not all(map(is_pattern, packet.added)):
            return [_malformed(peer)]
        for pattern in gone:
            del state.patterns[pattern]
            self._trie.remove(pattern, peer)
        self._learn(peer, state, packet.version, packet.added)
        return [Send(peer, InterestsKnown(state.known))]

    def _learn(self, peer: NodeId, state: Peer, version: int, patterns: Iterable[str]) -> None:
        state.known = version
        for pattern in patterns:
            state.patterns[pattern] = None
            self._trie.insert(pattern, peer)
        self._matches.clear()

    def on_version(self, peer: NodeId, version: int, now: int) -> list[Effect]:
        """A peer's packet shows the version of its interests: ask for them if they are newer."""
        state = self._peers.get(peer)
        if state is None or not state.alive or version <= state.known or state.wanted:
            return []
        state.wanted = True
        self._try_again(peer, state, now, tries=0)
        return [Send(peer, InterestsKnown(state.known, wanted=True))]

    def on_known(self, peer: NodeId, packet: InterestsKnown, now: int) -> list[Effect]:
        """A peer says what it knows of this node's interests, and may want all of them."""
        state = self._peers.get(peer)
        if state is None or not state.alive:
            return []
        state.told = packet.version
        self._calm(peer, state, now)
        return self._tell(peer, state, now) if packet.wanted else []

    # -- time --

    def next_deadline(self) -> int | None:
        """When somebody is to be told or asked again."""
        return self._timers.next_deadline()

    def on_timeout(self, now: int) -> list[Effect]:
        """Tell and ask again whoever has not answered."""
        effects: list[Effect] = []
        while (peer := self._timers.pop_due(now)) is not None:
            state = self._peers[peer]
            self._try_again(peer, state, now, tries=state.tries + 1)
            effects += self._say(peer, state, now)
        return effects

    def _say(self, peer: NodeId, state: Peer, now: int) -> list[Effect]:
        effects: list[Effect] = []
        if self._changes and state.told != self.version:
            effects += self._tell(peer, state, now)
        if state.wanted:
            effects.append(Send(peer, InterestsKnown(state.known, wanted=True)))
        return effects

    def _is_open(self, state: Peer) -> bool:
        return state.wanted or (self._changes > 0 and state.told != self.version)

    def _try_again(self, peer: NodeId, state: Peer, now: int, *, tries: int) -> None:
        """Look again in a while, if there is something that was not answered."""
        state.tries = tries
        if self._is_open(state):
            doublings = min(tries, RETRY_MS_MAX.bit_length())
            self._timers.set(peer, now + min(RETRY_MS_MAX, RETRY_MS << doublings))

    def _calm(self, peer: NodeId, state: Peer, now: int) -> None:
        """Something was answered: see whether that was all."""
        if self._is_open(state):
            self._try_again(peer, state, now, tries=0)
        else:
            self._timers.clear(peer)


def _malformed(peer: NodeId) -> Effect:
    text = f"{peer.hex()} is interested in what is no pattern, or in too many"
    return Notify(Counted("interests_malformed", text=text))
