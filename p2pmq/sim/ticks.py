"""Ticks of schedules: each once in the whole mesh, and none left out.

Invariant: a check only reads, and an empty history breaks no promise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pmq.node.cron import next_tick
from p2pmq.sim.history import dots
from p2pmq.sim.loop import WALL_EPOCH_S
from p2pmq.sim.violation import Violation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from p2pmq.core.ids import Session
    from p2pmq.sim.history import History

DAY_S = 86_400
GRACE_S = 20.0
"""So much later a tick is published and committed in a mesh that is at rest: nodes try again
after 15 s at most."""


def ticks_come_once(history: History) -> list[Violation]:
    """Of all that owners published for one second, no more are messages than there are schedules.

    Whoever publishes a tick again, as another side or a new owner does, gives it the same name:
    so that it comes twice only where any message does.
    """
    named: dict[tuple[str, int], dict[Session, None]] = {}
    for fired in history.fired:
        named.setdefault((fired.key.queue, fired.run.first), {})[fired.run.session] = None
    found: list[Violation] = []
    for (queue, seq), sessions in named.items():
        made = sum(one.queue == queue for one in history.scheduled)
        days = _days(history)
        if len(sessions) > made * days:
            text = f"second {seq - 1} of a day is {len(sessions)} messages in {queue!r}"
            found.append(Violation("ticks_come_once", f"{text}, of {made} schedules"))
    return found


def _days(history: History) -> int:
    """How many days there may have been by some clock: each has its own names for ticks."""
    if any(fault.kind == "clock" for fault in history.faults):
        return 2 + int(history.now_s // DAY_S)
    return 1 + int(history.now_s // DAY_S)


def missed_ticks(history: History, ownerless: Sequence[str] = ()) -> list[str]:
    """Every tick that should have come by now, and did not; or came, and is nowhere.

    What is for the queues in `ownerless` does not count. A run whose clocks were touched is told
    nothing, for it is the owner's clock that says when it is time.
    """
    if any(fault.kind == "clock" for fault in history.faults):
        return []
    kept = set(dots((*history.acks, *history.held, *history.dropped, *history.excused)))
    there = {
        (fired.key.queue, fired.run.first - 1)
        for fired in history.fired
        if kept.issuperset(dots([fired]))
    }
    found: list[str] = []
    for made in history.scheduled:
        tick_s = next_tick(made.cron, WALL_EPOCH_S + int(made.at_s))
        while tick_s is not None and tick_s - WALL_EPOCH_S <= history.now_s - GRACE_S:
            if made.queue not in ownerless and (made.queue, tick_s % DAY_S) not in there:
                found.append(f"{made.queue!r} missed the tick at {tick_s - WALL_EPOCH_S} s")
            tick_s = next_tick(made.cron, tick_s)
    return found
