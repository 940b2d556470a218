"""When nothing was broken, as a history tells it: what must hold only then.

Invariant: it only reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from p2pmq.sim.history import History

CALM_AFTER_S = 60.0
"""So long after a fault has ended it explains what happens: a split heals within this."""
SILENCING = ("cut", "flap", "link", "pause", "leave")
"""Kinds of faults in which a living owner may not hear of what another has done."""


class Calm:
    """When nothing was broken, nor had just been."""

    def __init__(self, history: History, kinds: tuple[str, ...] = ()) -> None:
        """Of all that may be broken, or of faults of some kinds alone."""
        spans = [
            (fault.at_s, (history.now_s if fault.until_s is None else fault.until_s))
            for fault in history.faults
            if not kinds or fault.kind in kinds
        ]
        spans += [(end.at_s, end.at_s) for end in history.process_ends if not kinds]
        self._spans = sorted((start, end + CALM_AFTER_S) for start, end in spans)

    def is_disturbed(self, start_s: float, end_s: float) -> bool:
        """Whether some of the time from `start_s` to `end_s` was not calm."""
        return any(start <= end_s and start_s <= end for start, end in self._spans)
