"""Stand-ins: copies for home replicas that are away, on members that are no homes.

When a home has been away for `replace_after_ms`, the owner keeps a copy in its
place on the next living member in line, a stand-in, which holds hints. It is
compared and sent to like a home, but counts for nothing: not towards W, not
towards being active, not in a receipt. Which members are homes follows from the
roster alone, so any two sets of W of them overlap; if stand-ins counted, each
side of a split could make up W copies of its own, and both would confirm.

The owner decides alone, and says so in each `Compare`. A stand-in that is told
otherwise, or hears no more of it, hands over what it has (`handover`).

Invariant: a partition has no more stand-ins than it has homes that are away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2pmq.core.antientropy import digest_of
from p2pmq.core.copies import Contact
from p2pmq.core.effects import Counted, Notify, Send
from p2pmq.core.packets.replicating import Compare

if TYPE_CHECKING:
    from collections.abc import Callable

    from p2pmq.core.copies import Copies
    from p2pmq.core.effects import Effect
    from p2pmq.core.ids import NodeId, PartitionKey
    from p2pmq.core.owner import Owner
    from p2pmq.core.ownership import Ownership
    from p2pmq.core.replication import Replication

LOOK_MS = 30_000
"""How often an owner compares with its stand-ins: the round of anti-entropy, as for homes."""
STANDS_MS = 3 * LOOK_MS
"""A stand-in that has not been asked for so long, three rounds, is one no more."""
HEIR_MS = 5_000
"""… nor one whose owner is gone, and whose new owner has not asked for this long: time enough to
hear of the same death (a round of gossip or two), and to be told no and ask again."""


class StandIns:
    """The stand-ins of every partition that this node owns."""

    def __init__(
        self,
        owner: Owner,
        ownership: Ownership,
        replication: Replication,
        away_since: Callable[[NodeId], int | None],
        replace_after_ms: int,
    ) -> None:
        """`away_since` says since when this node has held a member lost; 0 ms means never."""
        self._owner = owner
        self._ownership = ownership
        self._replication = replication
        self._away_since = away_since
        self._replace_after_ms = replace_after_ms
        self._chosen: dict[PartitionKey, tuple[NodeId, ...]] = {}
        self._look_at: int | None = None
        self._made = 0
        """How many partitions this node had ever begun to look after when it last looked."""

    def on_placement_changed(self, now: int) -> list[Effect]:
        """Somebody has come or gone. It costs nothing when all are there."""
        if not self._replace_after_ms or not (self._chosen or self._ownership.away):
            self._look_at = None
            return []
        return self._look(now)

    def next_deadline(self) -> int | None:
        """When a home will have been away for long enough, or stand-ins are due to be compared."""
        if self._look_at is not None and self._replication.made != self._made:
            return 0  # a new partition may lack one
        return self._look_at

    def on_timeout(self, now: int) -> list[Effect]:
        """Look whether homes have been away for long enough; compare."""
        due = self.next_deadline()
        if due is None or now < due:
            return []
        effects = self._look(now)
        if not due:
            return effects
        for key, copies in self._replication.looked_after().items():
            for holder in copies.stand_ins.values():
                if holder.contact is Contact.MERGED and not holder.number:
                    effects += self._replication.ask(key, holder, now)
        return effects

    def _look(self, now: int) -> list[Effect]:
        """Give each partition as many stand-ins as it needs now."""
        replaced: dict[NodeId, None] = {}
        self._made = self._replication.made
        self._look_at = now + LOOK_MS if self._ownership.away else None
        for node_id in self._ownership.away:
            since = self._away_since(node_id)
            due = now if since is None else since + self._replace_after_ms
            if due <= now:
                replaced[node_id] = None
            elif self._look_at is not None:
                self._look_at = min(self._look_at, due)
        owned = self._replication.looked_after()
        effects: list[Effect] = []
        for key in [key for key in self._chosen if key not in owned]:
            effects += self._note(key, ())  # its new owner looks after them, or they hand over
        for key, copies in list(owned.items()):
            if replaced or key in self._chosen:
                effects += self._place(key, copies, replaced, now)
        return effects

    def _place(
        self, key: PartitionKey, copies: Copies, replaced: dict[NodeId, None], now: int
    ) -> list[Effect]:
        """Keep those stand-ins that live, and fill up from the line, no further than needed."""
        homes, _ = self._ownership.homes_of(key)
        wanted = sum(home in replaced for home in homes)
        chosen = [n for n in copies.stand_ins if self._ownership.is_alive(n)][:wanted]
        if len(chosen) < wanted:
            line = [n for n in self._ownership.in_line(key) if n not in chosen]
            chosen += line[: wanted - len(chosen)]
        let_go = [n for n in self._chosen.get(key, ()) if n not in chosen and n not in homes]
        copies.set_stand_ins(chosen)
        effects = self._note(key, tuple(chosen))
        digest = digest_of(self._owner.partition(key)) if let_go else b""
        for node_id in let_go:
            if self._ownership.is_alive(node_id):
                effects.append(Send(node_id, Compare(key.queue, key.number, 0, digest)))
        return effects + self._replication.reach_out(key, copies, now)

    def _note(self, key: PartitionKey, chosen: tuple[NodeId, ...]) -> list[Effect]:
        """Remember whom the owner has chosen, and count who begins and who ends."""
        before = self._chosen.pop(key, ())
        if chosen:
            self._chosen[key] = chosen
        begun = sum(node_id not in before for node_id in chosen)
        ended = sum(node_id not in chosen for node_id in before)
        counted = [
            Counted("standin_begun", begun, f"queue {key.queue!r}: copies on stand-ins begun"),
            Counted("standin_ended", ended, f"queue {key.queue!r}: copies on stand-ins ended"),
        ]
        return [Notify(notice) for notice in counted if notice.count]


@dataclass(slots=True)
class _Post:
    owner: NodeId
    until_ms: int


class Standing:
    """The partitions for which this node is a stand-in itself, for whom, and until when."""

    def __init__(self) -> None:
        self._posts: dict[PartitionKey, _Post] = {}

    def begin(self, key: PartitionKey, owner: NodeId, now: int) -> int:
        """An owner wants a copy kept here; until when that holds, if it says no more."""
        self._posts[key] = _Post(owner, now + STANDS_MS)
        return now + STANDS_MS

    def end(self, key: PartitionKey, owner: NodeId) -> bool:
        """An owner wants no copy kept here; whether it is the one that did."""
        post = self._posts.get(key)
        if post is None or post.owner != owner:
            return False
        del self._posts[key]
        return True

    def has_until(self, key: PartitionKey, now: int) -> int | None:
        """Until when this node stands in; None: it does not (any more)."""
        post = self._posts.get(key)
        if post is None or post.until_ms <= now:
            self._posts.pop(key, None)
            return None
        return post.until_ms

    def on_owner(self, key: PartitionKey, owner: NodeId | None, now: int) -> int | None:
        """Who owns may have changed: a new owner has a while to ask. Until when; None: no change.

        While nobody owns, there is nobody to hand over to.
        """
        post = self._posts.get(key)
        if post is None or owner is None or owner == post.owner:
            return None
        post.until_ms = min(post.until_ms, now + HEIR_MS)
        return post.until_ms

    def resign(self) -> None:
        """This node is leaving, and stands in for nobody any more."""
        self._posts.clear()

    def __contains__(self, key: PartitionKey) -> bool:
        return key in self._posts
