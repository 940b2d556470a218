"""The checker: a history against the promises, each promise a small function.

Counts follow Jepsen's total-queue: a message is *lost* if it was promised to
be kept and neither acked nor found on a disk; *duplicated* if it was delivered
again; *unexpected* if it was never published; *recovered* if it came though
its publisher was told nothing good; *stuck* if it is kept, and nobody acked
it. What faults have destroyed is excused where they were made.

Invariant: a check only reads, and an empty history breaks no promise.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

from p2pmq.core.packets.publishing import KEY_HASH_BYTES, NO_KEY
from p2pmq.sim.calm import SILENCING, Calm
from p2pmq.sim.features import (
    discarded_stays_away,
    every_group_gets_it,
    only_what_is_too_much_goes,
    purged_was_to_go,
    rejected_is_told,
)
from p2pmq.sim.history import (
    Acked,
    Delivered,
    Dropped,
    Nacked,
    Outcome,
    Pushed,
    Returned,
    Unread,
    dots,
)
from p2pmq.sim.refuse import SimulationError
from p2pmq.sim.ticks import ticks_come_once
from p2pmq.sim.violation import Violation

if TYPE_CHECKING:
    from collections.abc import Iterable

    from p2pmq.core.ids import ConsumerId, PartitionKey, Session
    from p2pmq.sim.history import Dot, History, Process, Taken

HEAL_WITHIN_S = 60.0
EARLY_S_MAX = 0.01
"""Delays are whole milliseconds, rounded anew on each disk and each way."""
SHOWN_MAX = 20


class SimulationCheckError(SimulationError, AssertionError):
    """Promises were broken. `violations` lists each breach, `seed` makes it happen again."""

    def __init__(self, violations: list[Violation], seed: int, replay: str) -> None:
        listed = "".join(f"\n  {violation}" for violation in violations[:SHOWN_MAX])
        more = len(violations) - SHOWN_MAX
        listed += f"\n  and {more} more" if more > 0 else ""
        super().__init__(f"{len(violations)} broken promises with seed {seed}:{listed}\n{replay}")
        self.violations = violations
        self.seed = seed


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts of messages, after Jepsen's total-queue."""

    attempted: int
    """Published, whatever became of it."""
    acknowledged: int
    """Of these, promised to be kept: committed or stored."""
    delivered: int
    acked: int
    lost: int
    duplicated: int
    """Deliveries beyond a message's first; what was given back before anybody saw it is none."""
    unexpected: int
    recovered: int
    stuck: int

    def __str__(self) -> str:
        return ", ".join(f"{getattr(self, f.name)} {f.name}" for f in fields(self))


def summary(history: History) -> Summary:
    """The counts of a history."""
    attempted = set(dots(history.publications))
    not_by_users = set(dots((*history.buried, *history.fired)))
    promised = set(dots(p for p in history.publications if p.is_promised))
    delivered = set(dots(history.deliveries))
    acked = set(dots(history.acks))
    return Summary(
        attempted=len(attempted),
        acknowledged=len(promised),
        delivered=len(delivered),
        acked=len(acked),
        lost=len(promised - _accounted(history)),
        duplicated=_duplicated(history),
        unexpected=len(delivered - attempted - not_by_users),
        recovered=len(delivered & attempted - promised),
        stuck=len(_stuck(history)),
    )


def broken_promises(
    history: History, duplicates_max: int | None = None, stuck_max: int | None = None
) -> list[Violation]:
    """Every breach that some check finds."""
    found = [violation for check in CHECKS for violation in check(history)]
    found += too_many_duplicates(history, duplicates_max)
    return found + too_many_stuck(history, stuck_max)


# ------------------------------------------------------------------------- kept, and nothing else


def committed_is_kept(history: History) -> list[Violation]:
    """A committed message was acked, or lies on a disk."""
    committed = (p for p in history.publications if p.outcome is Outcome.COMMITTED)
    gone = set(dots(committed)) - _accounted(history)
    return _each("committed_is_kept", gone, "was committed, and is neither acked nor on a disk")


def stored_is_kept(history: History) -> list[Violation]:
    """A message that was stored in an outbox was acked, or lies on a disk."""
    stored = (
        p for p in history.publications if p.is_promised and p.outcome is not Outcome.COMMITTED
    )
    gone = set(dots(stored)) - _accounted(history)
    return _each("stored_is_kept", gone, "was stored, and is neither acked nor on a disk")


def nothing_is_dropped_silently(history: History) -> list[Violation]:
    """What a living publisher's outbox let go of without a promise was acked, or lies on a disk."""
    let_go = (
        p
        for p in history.publications
        if not p.is_promised and history.outboxes.get(p.process) == 0
    )
    gone = set(dots(let_go)) - _accounted(history)
    return _each("nothing_is_dropped_silently", gone, "left its outbox, and is nowhere")


def dropped_is_not_delivered(history: History) -> list[Violation]:
    """What an outbox reported as dropped or refused never comes.

    The end of the process may cut off the write that removes it from the disk: then it may.
    """
    ended = {end.process for end in history.process_ends}
    let_go = (
        drop
        for drop in history.dropped
        if drop.reason.startswith("outbox_") and drop.process not in ended
    )
    came = set(dots(let_go)) & set(dots(history.deliveries))
    return _each("dropped_is_not_delivered", came, "was reported as dropped, and was delivered")


def nothing_unexpected(history: History) -> list[Violation]:
    """What was delivered was published, or is a dead letter or a tick, with the same body."""
    published: dict[Dot, int] = {}
    for publication in history.publications:
        published.update(zip(dots([publication]), publication.digests, strict=True))
    for letter in history.buried:
        published.update(zip(dots([letter]), letter.digests, strict=True))
    for tick in history.fired:
        published.update(zip(dots([tick]), tick.digests, strict=True))
    found: list[Violation] = []
    for delivery in history.deliveries:
        for dot, digest in zip(dots([delivery]), delivery.digests, strict=True):
            if published.get(dot) != digest:
                what = "another body" if dot in published else "and was never published"
                text = f"{dot} came at {delivery.at_s:.3f} s to {delivery.process.host}, {what}"
                found.append(Violation("nothing_unexpected", text))
    return found


def _accounted(history: History) -> set[Dot]:
    """What was acked, is on a disk, was given up with a reason, or destroyed by a fault."""
    return (
        set(dots(history.acks))
        | set(dots(history.held))
        | set(dots(history.dropped))
        | set(dots(history.excused))
    )


# --------------------------------------------------------------------------- stuck and duplicates


def too_many_stuck(history: History, stuck_max: int | None) -> list[Violation]:
    """Promised messages are not left lying; only where a bound was given."""
    stuck = _stuck(history)
    if stuck_max is None or len(stuck) <= stuck_max:
        return []
    where = {dot: held.host for held in history.held for dot in dots([held])}
    shown = ", ".join(f"{dot} on {where[dot]}" for dot in sorted(stuck)[:3])
    text = f"{len(stuck)} messages, {stuck_max} allowed: {shown}"
    return [Violation("too_many_stuck", text)]


def _stuck(history: History) -> set[Dot]:
    promised = set(dots(p for p in history.publications if p.is_promised))
    excused = set(dots(history.acks)) | set(dots(history.dropped)) | set(dots(history.excused))
    rest = (p for p in history.publications if p.at_s + p.delay_ms / 1000 > history.now_s)
    excused |= set(dots(rest))  # nobody may have them yet
    return (promised & set(dots(history.held))) - excused


def too_many_duplicates(history: History, duplicates_max: int | None) -> list[Violation]:
    """Deliveries beyond a message's first are at most so many; only where a bound was given."""
    duplicates = _duplicated(history)
    if duplicates_max is None or duplicates <= duplicates_max:
        return []
    text = f"{duplicates} deliveries beyond the first, {duplicates_max} allowed"
    return [Violation("too_many_duplicates", text)]


def _duplicated(history: History) -> int:
    """How often messages were given to the user's code beyond the first time."""
    counts = Counter(dots(history.deliveries))
    counts.subtract(dots(history.returned))
    return sum(count - 1 for count in counts.values() if count > 1)


def duplicates_are_explained(history: History) -> list[Violation]:
    """A message comes again only for a reason.

    That is: its consumer gave it back, ended, or was too slow; or a fault was in force or just
    over. (Deliveries that its consumer closed unread count too: the owner cannot know.)
    """
    counts = Counter(dots(history.deliveries))
    again = {dot for dot, count in counts.items() if count > 1}
    if not again:
        return []
    of_dot: dict[Dot, list[Delivered]] = {}
    for delivery in history.deliveries:
        for dot in dots([delivery]):
            if dot in again:
                of_dot.setdefault(dot, []).append(delivery)
    reasons = _Reasons(history, again)
    return [
        Violation(
            "duplicates_are_explained",
            f"{dot} came to {former.process.host} at {former.at_s:.3f} s and to "
            f"{later.process.host} at {later.at_s:.3f} s, and nothing explains it",
        )
        for dot, deliveries in of_dot.items()
        for former, later in pairwise(deliveries)
        if not reasons.explain(dot, former, later.at_s)
    ]


class _Reasons:
    """Why a delivery may be repeated."""

    def __init__(self, history: History, again: set[Dot]) -> None:
        self._calm = Calm(history)
        self._timeout_s = {s.consumer: s.visibility_timeout_s for s in history.subscriptions}
        self._ended = {end.consumer: end.at_s for end in history.ended}
        self._nacks: dict[tuple[ConsumerId, Dot], list[float]] = {}
        given_back: list[Nacked | Returned] = [*history.nacks, *history.returned]
        for back in given_back:
            for dot in dots([back]):
                if dot in again:
                    self._nacks.setdefault((back.consumer, dot), []).append(back.at_s)
        self._pushes: dict[Dot, list[float]] = {}
        for push in history.pushes:
            for dot in dots([push]):
                if dot in again:
                    self._pushes.setdefault(dot, []).append(push.at_s)

    def explain(self, dot: Dot, former: Delivered, again_at_s: float) -> bool:
        """Whether there is a reason to deliver `dot` again after `former`."""
        between = (former.at_s, again_at_s)
        leased_s = round(again_at_s - self._leased_at(dot, former), 3)  # nodes count whole ms
        return (
            leased_s >= self._timeout_s.get(former.consumer, 0.0)
            or _is_in(self._ended.get(former.consumer), between)
            or any(_is_in(at, between) for at in self._nacks.get((former.consumer, dot), ()))
            or self._calm.is_disturbed(*between)
        )

    def _leased_at(self, dot: Dot, delivery: Delivered) -> float:
        """When the owner pushed what was delivered then: from there on it counts the time."""
        pushed = [at_s for at_s in self._pushes.get(dot, ()) if at_s <= delivery.at_s]
        return max(pushed, default=delivery.at_s)


def _is_in(at_s: float | None, between: tuple[float, float]) -> bool:
    return at_s is not None and between[0] <= at_s <= between[1]


# ------------------------------------------------------------------------- order, acks, and marks


def order_is_kept(history: History) -> list[Violation]:
    """What an owner took itself of one priority and key it pushes first as it was published.

    Messages that were handed over to it are left out: they were elsewhere while it went on. So
    are those with a delay, which go when they are due, and schedules' ticks, dead letters and
    redriven ones, of which none waits for another.
    """
    apart = set(dots(p for p in history.publications if p.delay_ms))
    apart |= set(dots(history.fired)) | set(dots(history.buried))
    own: dict[tuple[Process, Dot], tuple[int, bytes]] = {}
    for taken in history.taken:
        of_each = zip(dots([taken]), _keys_of(taken), strict=True)
        own.update(((taken.owner, dot), (taken.priority, key)) for dot, key in of_each)
    for fetched in history.fetched:  # a full disk had refused it, but not another home's
        for dot in dots([fetched]):
            own.pop((fetched.owner, dot), None)
    pushed: set[Dot] = set()
    highest: dict[tuple[Process, PartitionKey, Session, tuple[int, bytes]], int] = {}
    found: list[Violation] = []
    # What leaves in one instant goes to several consumers, a packet to each: no order is told.
    for (owner, at_s), pushes in groupby(history.pushes, lambda push: (push.owner, push.at_s)):
        for dot in sorted(set(dots(pushes)) - pushed):
            pushed.add(dot)
            lane = own.get((owner, dot))
            if lane is None or dot in apart:
                continue
            name = (owner, dot.key, dot.session, lane)
            if dot.seq < highest.get(name, 0):
                text = f"{owner.host} pushed {dot} at {at_s:.3f} s, after {highest[name]}"
                found.append(Violation("order_is_kept", text))
            highest[name] = max(dot.seq, highest.get(name, 0))
    return found


def delayed_is_not_early(history: History) -> list[Violation]:
    """Nobody pushes a message before it is due, by the time that passes in truth.

    A wall clock that is wrong from the start changes nothing. One that is set while messages wait
    does, once its node starts again: so a run whose clocks were touched is told nothing of this.
    """
    if any(fault.kind == "clock" for fault in history.faults):
        return []
    due_s: dict[Dot, float] = {}
    for publication in history.publications:
        if publication.delay_ms:
            at_s = publication.at_s + publication.delay_ms / 1000
            due_s.update(dict.fromkeys(dots([publication]), at_s))
    found: list[Violation] = []
    for push in history.pushes if due_s else ():
        for dot in dots([push]):
            if push.at_s < due_s.get(dot, 0.0) - EARLY_S_MAX:
                text = f"{push.owner.host} pushed {dot} at {push.at_s:.3f} s, due {due_s[dot]:.3f}"
                found.append(Violation("delayed_is_not_early", text))
    return found


def keys_go_one_by_one(history: History) -> list[Violation]:
    """What an owner pushed of a key is done for before it pushes another message of that key.

    In calm times: at a failover, consumers that cannot say in time what they hold are passed over.
    """
    ended: dict[Dot, float] = {}
    ends: list[Acked | Dropped | Unread] = [*history.acks, *history.dropped, *history.unread]
    for end in ends:
        for dot in dots([end]):
            ended[dot] = min(end.at_s, ended.get(dot, end.at_s))
    calm = Calm(history)
    latest: dict[tuple[Process, PartitionKey, bytes], tuple[Dot, float]] = {}
    found: list[Violation] = []
    for push in history.pushes:
        for dot, key in zip(dots([push]), _keys_of(push), strict=True):
            if key == NO_KEY:
                continue
            name = (push.owner, push.key, key)
            before, pushed_at_s = latest.get(name, (dot, 0.0))
            is_out = before != dot and ended.get(before, push.at_s + 1) > push.at_s
            if is_out and not calm.is_disturbed(pushed_at_s, push.at_s):
                text = f"{push.owner.host} pushed {dot} at {push.at_s:.3f} s beside {before}"
                found.append(Violation("keys_go_one_by_one", f"{text}, which has its key"))
            latest[name] = (dot, push.at_s)
    return found


def _keys_of(entry: Taken | Pushed) -> list[bytes]:
    """The hash of each message's ordering key."""
    keys, size = entry.keys, KEY_HASH_BYTES
    if not keys:
        return [NO_KEY] * entry.run.length
    return [keys[at : at + size] for at in range(0, len(keys), size)]


def acked_stays_acked(history: History) -> list[Violation]:
    """After an ack was confirmed, so that W replicas have it, nobody pushes the message again.

    Deaths, restarts and failing disks explain nothing: the acks are on disks. A cut or a pause
    does, in which another owner could not hear of the ack; one that confirmed it knows. Where
    so few copies are enough that another owner need not reach any of those that have it
    (`min_copies` up to half of them), it does not while those are down, either.
    """
    confirmed: dict[Dot, tuple[float, str, bool]] = {}
    for ack in history.confirmed_acks:
        for dot in dots([ack]):
            confirmed.setdefault(dot, (ack.at_s, ack.by, ack.is_known))
    excused = set(dots(history.excused))
    calm, calm_and_up = Calm(history, SILENCING), Calm(history, (*SILENCING, "down"))
    found: list[Violation] = []
    for push in history.pushes:
        for dot in dots([push]):
            at_s, by, is_known = confirmed.get(dot, (push.at_s, "", True))
            if push.at_s <= at_s or dot in excused:
                continue
            quiet = calm if is_known else calm_and_up
            if push.owner.host == by or not quiet.is_disturbed(at_s, push.at_s):
                text = (
                    f"{by} confirmed the ack of {dot} at {at_s:.3f} s, and {push.owner.host} "
                    f"pushed it again at {push.at_s:.3f} s"
                )
                found.append(Violation("acked_stays_acked", text))
    return found


def redeliveries_are_marked(history: History) -> list[Violation]:
    """An owner that pushes a message again says so: its attempt is higher than before."""
    attempts: dict[tuple[Process, Dot], int] = {}
    found: list[Violation] = []
    for entry in history.timeline:
        if isinstance(entry, Unread):  # what it was about to push did not leave
            for dot in dots([entry]):
                attempts.pop((entry.process, dot), None)
        if not isinstance(entry, Pushed):
            continue
        for dot in dots([entry]):
            before = attempts.get((entry.owner, dot), 0)
            if entry.attempt <= before:
                text = f"{entry.owner.host} pushed {dot} again at {entry.at_s:.3f} s as {before}"
                found.append(Violation("redeliveries_are_marked", text))
            attempts[entry.owner, dot] = entry.attempt
    return found


# ---------------------------------------------------------------------------- bounds, and views


def seen_is_never_ahead_of_bodies(history: History) -> list[Violation]:
    """What a disk has as seen, and holds no body of, somebody has acked, or given up.

    It is the one rule whose breach loses data: a merge takes such a message for acked.
    """
    done = set(dots(history.acks)) | set(dots(history.dropped)) | set(dots(history.excused))
    found: list[Violation] = []
    for held in history.taken_for_acked:
        ahead = sorted(set(dots([held])) - done)
        if ahead:
            more = f" (and {len(ahead) - 1} more)" if len(ahead) > 1 else ""
            text = f"{held.host} has seen {ahead[0]}{more}, holds no body, and nobody has acked it"
            found.append(Violation("seen_is_never_ahead_of_bodies", text))
    return found


def buffers_are_bounded(history: History) -> list[Violation]:
    """No buffer ever held more than its limit."""
    return [
        Violation("buffers_are_bounded", f"{what} of {host} held {peak}, its limit is {limit}")
        for (host, what), (peak, limit) in sorted(history.peaks.items())
        if peak > limit
    ]


def prefetch_is_a_bound(history: History) -> list[Violation]:
    """No consumer holds more unsettled messages than its prefetch."""
    prefetch = {s.consumer: s.prefetch for s in history.subscriptions}
    holding: dict[ConsumerId, set[tuple[Session, int]]] = {}
    found: dict[ConsumerId, Violation] = {}
    for entry in history.timeline:
        if not isinstance(entry, Delivered | Acked | Nacked):
            continue
        held = holding.setdefault(entry.consumer, set())
        named = {(entry.run.session, seq) for seq in range(entry.run.first, entry.run.last + 1)}
        if not isinstance(entry, Delivered):
            held -= named
            continue
        held |= named
        most = prefetch.get(entry.consumer, len(held))
        if len(held) > most:
            text = (
                f"a consumer of {entry.key.queue!r} on {entry.process.host} with prefetch {most} "
                f"held {len(held)} at {entry.at_s:.3f} s"
            )
            found.setdefault(entry.consumer, Violation("prefetch_is_a_bound", text))
    return list(found.values())


def views_are_equal_after_a_heal(history: History) -> list[Violation]:
    """Within 60 s after the last fault every node sees those that it can reach, and no others."""
    found: list[Violation] = []
    for heal in history.heals:
        waited_s = (heal.equal_at_s or history.now_s) - heal.at_s
        if not heal.disturbed and waited_s > HEAL_WITHIN_S:
            text = f"healed at {heal.at_s:.3f} s, and 60 s later: {heal.differing or 'equal late'}"
            found.append(Violation("views_are_equal_after_a_heal", text))
    return found


CHECKS = (
    committed_is_kept,
    stored_is_kept,
    nothing_is_dropped_silently,
    dropped_is_not_delivered,
    nothing_unexpected,
    duplicates_are_explained,
    order_is_kept,
    delayed_is_not_early,
    keys_go_one_by_one,
    acked_stays_acked,
    redeliveries_are_marked,
    seen_is_never_ahead_of_bodies,
    prefetch_is_a_bound,
    buffers_are_bounded,
    views_are_equal_after_a_heal,
    every_group_gets_it,
    rejected_is_told,
    only_what_is_too_much_goes,
    discarded_stays_away,
    purged_was_to_go,
    ticks_come_once,
)
"""The promises of the design's section 2 that hold for every history."""


def _each(check: str, broken: Iterable[Dot], text: str) -> list[Violation]:
    return [Violation(check, f"{dot} {text}") for dot in sorted(broken)]
