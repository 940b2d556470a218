"""Homes that forget what was acked long ago, some of which were away meanwhile.

It is `copies_world` with the rooms for that, and with what must hold beside the rest: a message
that was committed and that nobody has acked is never made a dead letter, and each that is buried
lies in the dead-letter queue.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from p2pmq.core.deadletters import letter_session
from p2pmq.core.effects import Buried, Effect, Notify
from p2pmq.core.ids import PartitionKey, key_of
from p2pmq.core.packets import publishing
from p2pmq.core.retention import PRUNE_MS, Retention
from tests.core.copies_world import USER, Beliefs, Home, World
from tests.core.kit import KEY, Dot, dots_of

if TYPE_CHECKING:
    from p2pmq.core.deadletters import DeadLetters
    from p2pmq.core.ids import NodeId
    from p2pmq.core.packets.registry import Packet

RETENTION_MS = 3_000_000
LETTERS = PartitionKey(f"{KEY.queue}.dlq", 0)


def letter_of(dot: Dot) -> Dot:
    return letter_session(KEY, dot[0]), dot[1]


@dataclass
class RetainingHome(Home):
    """One home replica that forgets."""

    def start(self, now: int) -> list[Effect]:
        effects = super().start(now)
        clock = self.owner.clock
        self.retention = Retention(self.owner, self.replication, clock, RETENTION_MS)
        self.retention.begin(now)
        return effects

    def change(self, now: int) -> list[Effect]:
        return super().change(now) + self.dead_letters.on_placement_changed(now)

    @property
    def dead_letters(self) -> DeadLetters:
        return self.replication.dead_letters

    def receive(self, peer: NodeId, packet: Packet, now: int) -> list[Effect]:
        match packet:
            case publishing.Confirm():
                return self.dead_letters.on_confirm(packet, key_of(packet), now)
            case publishing.Moved() | publishing.Gap() | publishing.PublishRefused():
                return []  # the letter is sent again
        return super().receive(peer, packet, now)

    def on_timeout(self, now: int) -> list[Effect]:
        effects = self.retention.on_timeout(now) + self.dead_letters.on_timeout(now)
        return effects + super().on_timeout(now)


class RetainingWorld(World):
    """The homes, and what became of what one of them missed."""

    def __init__(self, homes: int = 3, *, orderly: bool = False) -> None:
        self.buried: set[Dot] = set()
        self.dropped: set[Dot] = set()
        self.old: set[Dot] = set()
        """The acked messages that homes may have forgotten."""
        super().__init__(homes, orderly=orderly)
        self.pass_time(1)

    def home_of(self, node_id: NodeId) -> Home:
        return RetainingHome(node_id, Beliefs(self.ids, self.wanted))

    def home(self, number: int) -> RetainingHome:
        home = self.homes[self.ids[number]]
        assert isinstance(home, RetainingHome)
        return home

    def take(self, home: Home, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Notify) and isinstance(effect.notice, Buried):
                self.on_buried(effect.notice)
        super().take(home, effects)

    def on_buried(self, notice: Buried) -> None:
        if notice.key != KEY:
            return
        dots = dots_of(notice.runs)
        lost = dots & self.confirmed - self.acked - self.hurt
        assert not lost, f"{lost} were committed, and nobody has acked them"
        self.buried |= dots if notice.into else set()
        self.dropped |= set() if notice.into else dots
        self.acked |= dots  # for what is seen and not pending after this

    def send(self, home: Home, peer: NodeId, packet: Packet) -> None:
        if isinstance(packet, publishing.Publish):
            batch = home.read(packet.batch)
            if batch is not None:
                self.way.append((home.node_id, peer, replace(packet, batch=batch)))
        elif peer != USER or key_of_any(packet) == KEY:
            super().send(home, peer, packet)

    def crash(self, node_id: NodeId) -> None:
        super().crash(node_id)
        self.homes[node_id].owner.clock.now = self.now

    def pass_time(self, duration: int) -> None:
        for home in self.homes.values():
            home.owner.clock.now = self.now + duration
        super().pass_time(duration)

    def check(self) -> None:
        settled = self.settled
        self.settled = {dot: at for dot, at in settled.items() if dot not in self.old}
        super().check()
        self.settled = settled

    def heal(self) -> None:
        super().heal()
        for dot in self.buried:
            holders = [
                home
                for home in self.homes.values()
                if home.owner.partition(LETTERS).seen.has(*letter_of(dot))
            ]
            assert len(holders) >= self.wanted, f"the letter of {dot} is lost"

    def sleep(self, away: NodeId, *, ack: bool) -> None:
        """All but one are in touch for hours, with little to do; then that one is back."""
        others = [node_id for node_id in self.ids if node_id != away]
        self.way = [packet for packet in self.way if away not in packet[:2]]
        for one in others:
            self.look(one, away, alive=False)
            self.look(away, one, alive=False)
            for other in others:
                self.look(one, other, alive=True)
        for turn in range(12):
            self.work(away)
            if ack and turn == 6:
                self.attach(others[0], 1_000)
                self.work(away)
                self.settle(others[0], sorted(self.held))
            self.pass_time(1_000)
        self.old |= self.acked
        for _ in range(2 * (RETENTION_MS // PRUNE_MS + 2)):
            self.pass_time(PRUNE_MS // 2)
            self.work(away)
        self.way.clear()
        for other in others:
            self.look(away, other, alive=True)
            self.look(other, away, alive=True)

    def work(self, away: NodeId) -> None:
        """Those in touch say and write all that there is."""
        others = [node_id for node_id in self.ids if node_id != away]
        owner = others[0]
        for _ in range(5_000):
            for node_id in self.ids:  # nobody's write takes hours
                while self.homes[node_id].writes:
                    self.write(node_id)
                    self.check()
            here = [at for at, packet in enumerate(self.way) if packet[1] != away]
            if not here:
                break
            self.arrive(here[0])
            self.check()
        self.way.clear()
        for session in self.sent:
            self.publish_again(session, owner)


def key_of_any(packet: Packet) -> PartitionKey:
    queue, partition = getattr(packet, "queue", ""), getattr(packet, "partition", 0)
    return PartitionKey(queue, partition)
