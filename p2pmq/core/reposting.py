"""Reposting: dead letters on their way back to the queue that they come from.

A message that goes back gets a dot that is derived from its letter's. So a letter
that is redriven twice, since the first redrive ended between the message's commit
and the letter's ack, makes one message: the queue has seen the dot. What is under
way is not written down here, for the letter lies on its queue's disks until then.

Invariant: a token resolves once: when all of its messages are committed, or at its deadline.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2pmq.core.dots import DotSet
from p2pmq.core.effects import Done, Refused, Resolve, Send
from p2pmq.core.ids import ID_BYTES, Run
from p2pmq.core.packets.publishing import Publish
from p2pmq.core.timers import Timers

if TYPE_CHECKING:
    from collections.abc import Callable

    from p2pmq.core.effects import Effect
    from p2pmq.core.events import RepostRequested
    from p2pmq.core.ids import NodeId, PartitionKey, Session
    from p2pmq.core.packets.publishing import Batch, Confirm, PublishRefused

RESEND_MS = 1_000
RESEND_MAX_MS = 15_000
"""As the outbox does: each time twice as long, so that repeats do not stand in the way."""
NO_OWNER = "the queue's owner is away"
NO_CONFIRM = "the queue's owner did not confirm it in time"


def reposted_session(letters: PartitionKey, session: Session) -> Session:
    """The session under which the letters of a session are published to their queue again."""
    queue = letters.queue.encode("utf-8", "surrogatepass")
    data = b"%d/%d/%s/%s/redrive" % (len(queue), letters.number, queue, session)
    return hashlib.blake2b(data, digest_size=ID_BYTES).digest()


@dataclass(slots=True)
class Posting:
    """One batch on its way to `key`; `left` is what of it is not committed there yet."""

    key: PartitionKey
    batch: Batch
    token: int
    deadline: int
    left: DotSet
    why: str = ""
    sent: int = 0
    sent_to: NodeId | None = None


class Reposts:
    """All batches of this node that go back to where they came from. Callers bound their number."""

    def __init__(self, owner_of: Callable[[PartitionKey], NodeId | None]) -> None:
        self._owner_of = owner_of
        self._postings: dict[int, Posting] = {}
        self._timers: Timers[int] = Timers()

    def on_requested(self, event: RepostRequested, now: int) -> list[Effect]:
        """Publish the batch under the dots that it has already."""
        left = DotSet([event.batch.run])
        posting = Posting(event.key, event.batch, event.token, now + event.timeout_ms, left)
        self._postings[event.token] = posting
        return self._send(posting, now)

    def on_confirm(self, packet: Confirm, key: PartitionKey) -> list[Effect]:
        """Some of a queue is committed: perhaps some of it is from here."""
        effects: list[Effect] = []
        for posting in list(self._postings.values()) if self._postings else ():
            if posting.key != key:
                continue
            for run in packet.runs:
                posting.left.remove(Run(run.session, run.first, run.last))
            if not posting.left:
                effects.append(self._end(posting, Done()))
        return effects

    def on_refused(self, packet: PublishRefused, key: PartitionKey, reason: str) -> None:
        """The owner cannot take it now: it is tried again, and the reason told at the deadline."""
        for posting in self._postings.values():
            batch = posting.batch
            if (posting.key, batch.session, batch.first) == (key, packet.session, packet.first):
                posting.why = reason

    def on_placement_changed(self, now: int) -> list[Effect]:
        """What was sent to an owner that is none any more is sent to the new one."""
        effects: list[Effect] = []
        for posting in self._postings.values():
            if self._owner_of(posting.key) != posting.sent_to:
                posting.sent = 0
                effects += self._send(posting, now)
        return effects

    def next_deadline(self) -> int | None:
        """When something is to be sent again, or given up."""
        return self._timers.next_deadline()

    def on_timeout(self, now: int) -> list[Effect]:
        """Send again what is not committed; give up what has waited long enough."""
        effects: list[Effect] = []
        while (token := self._timers.pop_due(now)) is not None:
            posting = self._postings[token]
            if now >= posting.deadline:
                why = posting.why or (NO_CONFIRM if posting.sent_to is not None else NO_OWNER)
                effects.append(self._end(posting, Refused(why)))
            else:
                effects += self._send(posting, now)
        return effects

    def _send(self, posting: Posting, now: int) -> list[Effect]:
        again_at = now + min(RESEND_MAX_MS, RESEND_MS << min(posting.sent, 8))
        self._timers.set(posting.token, min(again_at, posting.deadline))
        posting.sent += 1
        owner = posting.sent_to = self._owner_of(posting.key)
        if owner is None:
            return []
        # No letter waits for another: `previous` is 0, and each dot is final.
        return [Send(owner, Publish(posting.key.queue, posting.key.number, 0, posting.batch))]

    def _end(self, posting: Posting, outcome: Done | Refused) -> Effect:
        del self._postings[posting.token]
        self._timers.clear(posting.token)
        return Resolve(posting.token, outcome)
