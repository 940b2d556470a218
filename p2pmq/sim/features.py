"""Checks of single features of queues, beside those of `checks` that are for every message.

Invariant: a check only reads, and an empty history breaks no promise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pmq.sim.violation import Violation

if TYPE_CHECKING:
    from p2pmq.sim.history import History


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
