"""What can be wrong with a packet from a peer: counted by its reason, logged, dropped."""

from __future__ import annotations

from p2pmq.errors import P2PMQError

REASONS = {
    "frames": "too few or too many frames",
    "checksum": "the header or a body is not what was sent",
    "not-msgpack": "the header is not one msgpack array",
    "unknown-packet": "no packet has this number: a newer version sent it",
    "missing-field": "a field without a default is not there",
    "type": "a field is of another type",
    "bounds": "a field is out of its bounds",
    "order": "two fields contradict each other",
    "queue-name": "the name of a queue is over long or has control characters",
    "bodies": "a frame of bodies is malformed, or has not as many as its batch says",
}
"""Every reason, fit for a label of a metric, and what it means."""


class PacketError(P2PMQError):
    """A peer's packet is malformed; `reason` is one of REASONS. No user ever sees it."""

    def __init__(self, reason: str, where: str = "") -> None:
        assert reason in REASONS
        super().__init__(f"{where or 'a packet'}: {REASONS[reason]}; it was dropped")
        self.reason = reason
        self.where = where
