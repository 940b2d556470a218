"""Replays of a queue that retains its messages, against what was published to it.

Invariant: it only reads.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING
from zlib import crc32

from p2pmq.core.spreading import message_name
from p2pmq.sim.history import dots

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from p2pmq.node.replay import Retained
    from p2pmq.sim.history import Dropped, Excused, Fired, History, Publication, Taken

Name = str
"""What a message is called within its queue."""


def replay_problems(history: History, queue: str, replayed: Sequence[Retained]) -> list[str]:
    """What a replay of the whole queue lacks, has twice, or cannot have.

    All that is committed belongs in it, acked or not, but for what left the queue in another way
    (a time to live, another of its id, a purge) or was destroyed by a fault: that may be in it.
    So may what a node took before it had met the mesh in which the queue was declared.
    """
    published: dict[Name, int] = {}
    committed: set[Name] = set()
    for publication in history.publications:
        if publication.key.queue == queue:
            names = _names([publication])
            published.update(zip(names, publication.digests, strict=True))
            committed.update(names if publication.is_committed else ())
    for fired in history.fired:
        if fired.key.queue == queue:
            published.update(zip(_names([fired]), fired.digests, strict=True))
    gone = set(_names(drop for drop in history.dropped if drop.key.queue == queue))
    gone.update(_names(one for one in history.excused if one.key.queue == queue))
    gone.update(_names(one for one in history.taken if one.alone and one.key.queue == queue))
    found = Counter(map(_name, replayed))
    missing = sorted(committed - gone - set(found))
    problems = [f"{queue}/{name} is not replayed" for name in missing]
    problems += [f"{name} is replayed {times} times" for name, times in found.items() if times > 1]
    for message in replayed:
        digest = crc32(message.body) if isinstance(message.body, bytes) else None
        if published.get(_name(message)) != digest:
            problems.append(f"{message.message_id} is replayed, and was never published so")
    return problems


def _name(message: Retained) -> Name:
    return message.message_id.rpartition("/")[2]


def _names(entries: Iterable[Publication | Fired | Dropped | Excused | Taken]) -> list[Name]:
    return [message_name(dot.session, dot.seq, dot.key.number) for dot in dots(entries)]
