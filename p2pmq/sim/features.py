"""Checks of single features of queues, beside those of `checks` that are for every message.

Invariant: a check only reads, and an empty history breaks no promise.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from p2pmq.core.spreading import share_of
from p2pmq.sim.calm import SILENCING, Calm
from p2pmq.sim.history import Dropped, Outcome, Pushed, dots
from p2pmq.sim.violation import Violation

if TYPE_CHECKING:
    from p2pmq.core.ids import PartitionKey
    from p2pmq.sim.history import Dot, History, Process

REJECTED = "queue_full"
DROPPED_OLDEST = "overflow"
PURGED = "purged"
"""Why a queue, or its user, lets go of messages, as nodes say it."""
NEVER = (inf, 0)


def every_group_gets_it(history: History) -> list[Violation]:
    """An event has a copy in each queue that its emitter itself had bound to the topic.

    Only where the emit ended without an error, so that no copy was wanting for room. That a copy
    is kept and delivered is for the other checks: it is a message as any other.
    """
    copies = {
        (publication.process.host, digest, publication.key.queue)
        for publication in (history.publications if history.emitted else ())
        for digest in publication.digests
    }
    return [
        Violation(
            "every_group_gets_it",
            f"{event.host} emitted an event at {event.at_s:.3f} s, and {queue!r} got no copy",
        )
        for event in history.emitted
        for queue in event.queues
        if (event.host, event.digest, queue) not in copies
    ]


# -------------------------------------------------------------------------------------- limits


def rejected_is_told(history: History) -> list[Violation]:
    """Only a queue that was declared to reject does, and its publisher is not told otherwise.

    Who waits for "committed" when it happens is told of it, unless its patience ends in the same
    instant. One that asked for less may have been told that the message was stored; it is counted.
    """
    rejecting = _declared(history, "reject")
    rejected: dict[Dot, float] = {}
    found: list[Violation] = []
    for drop in history.dropped:
        if not drop.reason.startswith(REJECTED):
            continue
        if drop.at_s < rejecting.get(drop.key.queue, NEVER)[0]:
            text = f"{drop.key.queue!r} rejected a message, and nobody had declared it to reject"
            found.append(Violation("rejected_is_told", f"{text} by {drop.at_s:.3f} s"))
        rejected.update(dict.fromkeys(dots([drop]), drop.at_s))
    for publication in history.publications if rejected else ():
        told_at_s = publication.told_at_s
        for dot in dots([publication]):
            at_s = rejected.get(dot)
            if at_s is None or told_at_s is None:
                continue
            expired = publication.has_expired and told_at_s <= at_s
            waited = publication.wanted == "committed" and told_at_s >= at_s and not expired
            if publication.outcome is Outcome.COMMITTED or (waited and not publication.gone):
                text = f"{dot} was rejected, and its publisher was told {publication.outcome.value}"
                found.append(Violation("rejected_is_told", text))
    return found


def only_what_is_too_much_goes(history: History) -> list[Violation]:
    """A queue lets go of its oldest only if it was declared to, and there were more than it holds.

    That is told by the least that it was ever to hold. What was published and is neither acked
    for certain nor gone counts, though it may have waited in an outbox yet: so at most that much
    can have lain there. Where a cut kept an owner from hearing of acks, these count for nothing.
    """
    dropping = _declared(history, "drop-oldest")
    found: list[Violation] = []
    for key in dict.fromkeys(d.key for d in history.dropped if d.reason == DROPPED_OLDEST):
        since_s, most = dropping.get(key.queue, NEVER)
        found += _beyond(history, key, since_s, most)
    return found


def _beyond(history: History, key: PartitionKey, since_s: float, most: int) -> list[Violation]:
    """The drops of a queue for want of room that were none, or came before they might."""
    changes = [(p.at_s, 1, p.run.length, "") for p in history.publications if p.key == key]
    changes += [(b.at_s, 1, b.run.length, "") for b in history.buried if b.key == key]
    changes += [(f.at_s, 1, f.run.length, "") for f in history.fired if f.key == key]
    hushed = Calm(history, SILENCING).is_disturbed(0.0, history.now_s)
    gone: set[Dot] = set()
    if not hushed:
        for ack in history.confirmed_acks:
            fresh = set(dots([ack])) - gone if ack.key == key else set()
            gone |= fresh
            changes.append((ack.at_s, 2, -len(fresh), ""))
    for drop in history.dropped:
        fresh = set(dots([drop])) - gone if drop.key == key else set()
        if fresh:
            gone |= fresh
            changes.append((drop.at_s, 2, -len(fresh), drop.reason))
    found: list[Violation] = []
    held = 0
    for at_s, _, count, reason in sorted(changes, key=lambda change: change[:2]):
        held += count
        if reason == DROPPED_OLDEST and (at_s < since_s or held < most):
            text = f"{key.queue!r} dropped {-count} messages at {at_s:.3f} s, which left it {held}"
            text += f" of {most} at most" if at_s >= since_s else ", and nobody had told it to"
            found.append(Violation("only_what_is_too_much_goes", text))
    return found


def discarded_stays_away(history: History) -> list[Violation]:
    """What an owner has discarded, for want of room or at somebody's word, it pushes no more."""
    discarded: dict[tuple[Process, Dot], float] = {}
    found: list[Violation] = []
    if not any(drop.reason in (DROPPED_OLDEST, PURGED) for drop in history.dropped):
        return found
    for entry in history.timeline:
        if isinstance(entry, Dropped) and entry.reason in (DROPPED_OLDEST, PURGED):
            discarded.update(((entry.process, dot), entry.at_s) for dot in dots([entry]))
        elif isinstance(entry, Pushed):
            for dot in dots([entry]):
                at_s = discarded.get((entry.owner, dot))
                if at_s is not None:
                    text = (
                        f"{entry.owner.host} discarded {dot} at {at_s:.3f} s, and pushed it at "
                        f"{entry.at_s:.3f} s"
                    )
                    found.append(Violation("discarded_stays_away", text))
    return found


def purged_was_to_go(history: History) -> list[Violation]:
    """A purge takes what was there before whoever asked for it was told that it is done.

    A purge that nobody was told the end of may be done at any later time.
    """
    purged = [drop for drop in history.dropped if drop.reason == PURGED]
    published: dict[Dot, float] = {}
    for publication in history.publications if purged else ():
        published.update(dict.fromkeys(dots([publication]), publication.at_s))
    found: list[Violation] = []
    for drop in purged:
        until_s = max(
            (
                inf if purge.done_at_s is None else purge.done_at_s
                for purge in history.purges
                if purge.key == drop.key and purge.at_s <= drop.at_s
            ),
            default=-inf,
        )
        late = [dot for dot in dots([drop]) if published.get(dot, 0.0) > until_s]
        if late:
            text = f"{drop.process.host} purged {late[0]} at {drop.at_s:.3f} s, and nobody had "
            text += "asked for that since it was published"
            found.append(Violation("purged_was_to_go", text))
    return found


def _declared(history: History, overflow: str) -> dict[str, tuple[float, int]]:
    """The queues that were declared so: since when, and how many messages they hold at least.

    Of several partitions each holds its share, the least of which is that of the most partitions.
    A limit of bytes may be reached by a single message.
    """
    found: dict[str, tuple[float, int]] = {}
    partitions: dict[str, int] = {}
    for one in history.declared:
        partitions[one.queue] = max(1, one.partitions, partitions.get(one.queue, 1))
    for one in history.declared:
        if one.overflow == overflow and (one.max_messages or one.max_bytes):
            most = share_of(one.max_messages, partitions[one.queue]) if not one.max_bytes else 1
            since_s, least = found.get(one.queue, (one.at_s, most))
            found[one.queue] = since_s, min(least, most)
    return found
