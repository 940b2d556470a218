"""An outbox by itself, with a disk of plain dicts, for tests."""

from __future__ import annotations

from typing import Literal

from p2pmq.config import Limits, OutboxPolicy, Timing
from p2pmq.core.effects import Effect, Published, Resolve
from p2pmq.core.events import Confirmation, OutboxDurable, PublishRequested
from p2pmq.core.ids import NodeId, PartitionKey, Run
from p2pmq.core.outbox import Outbox
from p2pmq.core.packets.publishing import Confirm, Publish, RunField
from tests.core.kit import KEY, A, Disk, Texts, packets, writes

TIMING = Timing()
LIMITS = Limits(publish_window_bytes=100)
Overflow = Literal["wait", "refuse", "drop-lowest"]


class Rig:
    """An outbox with its disk, and what became of each token."""

    def __init__(self, owner: NodeId | None = A, policy: OutboxPolicy | None = None) -> None:
        self.policy = policy or OutboxPolicy()
        self.now = 1_000
        self.owner = owner
        self.disk = Disk()
        self.boots = 0
        self.tokens: dict[int, list[Published]] = {}
        self.outbox = self.boot()

    def boot(self) -> Outbox:
        self.boots += 1
        session = b"boot%4d" % self.boots
        self.outbox = Outbox(session, lambda _key: self.owner, LIMITS, TIMING, self.policy)
        return self.outbox

    def publish(
        self,
        count: int = 1,
        wanted: Confirmation = Confirmation.COMMITTED,
        *,
        key: PartitionKey = KEY,
        size: int = 10,
        timeout_ms: int = 3_000,
        priority: int = 0,
    ) -> list[Effect]:
        token = len(self.tokens) + 1
        self.tokens[token] = []
        texts = Texts(tuple(f"{token}.{at}" for at in range(count)))
        request = PublishRequested(
            key, texts, count, size, wanted, timeout_ms, token, priority=priority
        )
        return self.outbox.on_publish(request, self.now)

    def confirm(self, session: bytes, first: int, last: int) -> list[Effect]:
        packet = Confirm(*KEY, (RunField(session, first, last),), 1)
        return self.outbox.on_confirm(packet, KEY, A, self.now)

    def write(self, effects: list[Effect]) -> list[Effect]:
        """Make everything durable that the effects ask for."""
        after: list[Effect] = []
        for write in writes(effects):
            self.disk.apply(write.records)
            if isinstance(write.then, OutboxDurable):
                after += self.outbox.on_durable(write.then, self.now)
        return after


def published(effects: list[Effect]) -> list[Published]:
    return [
        effect.outcome
        for effect in effects
        if isinstance(effect, Resolve) and isinstance(effect.outcome, Published)
    ]


def sent(effects: list[Effect]) -> list[Run]:
    return [packet.batch.run for packet in packets(effects) if isinstance(packet, Publish)]
