"""Lanes: the packets that wait for one link, in the order in which they may leave.

Control goes first, always. Bulk goes within the window of bytes, in two lanes
that take turns: what is sent again if it is lost, and emits, which never are.
A link that stands still would fill up with both: where too many wait, the
oldest go, and whoever counts is told.

Invariant: no emit ever makes another packet be dropped, and of two that wait
neither lane waits for more than one packet of the other.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from p2pmq.core.packets.emitting import Emit

if TYPE_CHECKING:
    from p2pmq.core.packets.registry import Packet

CONTROL_QUEUE_MAX = 1_024
BULK_QUEUE_MAX = 1_024
"""Packets that wait for the window. Resends to a link that stands still would add up for ever."""
EMIT_QUEUE_MAX = 256
EMIT_QUEUE_BYTES_MAX = 1024 * 1024
"""Emits that wait for the window: what is old is worth little, so not many; or a single packet."""


class Lanes:
    """The packets that wait for one link."""

    __slots__ = ("_emit_bytes", "_emits_turn", "bulk", "control", "emits")

    def __init__(self) -> None:
        self.control: deque[Packet] = deque()
        self.bulk: deque[Packet] = deque()
        self.emits: deque[Emit] = deque()
        self._emit_bytes = 0
        self._emits_turn = False

    def put(self, packet: Packet) -> dict[str, int]:
        """Let a packet wait in its lane; what was dropped for it, by the name of its counter."""
        if type(packet) is Emit:
            return self._put_emit(packet)
        lane, most = (
            (self.bulk, BULK_QUEUE_MAX) if packet.BULK else (self.control, CONTROL_QUEUE_MAX)
        )
        lane.append(packet)
        if len(lane) <= most:
            return {}
        lane.popleft()
        return {"packet_dropped_queue_full": 1}

    def _put_emit(self, packet: Emit) -> dict[str, int]:
        emits = self.emits
        emits.append(packet)
        self._emit_bytes += packet.batch.size
        dropped = 0
        while len(emits) > 1 and (
            len(emits) > EMIT_QUEUE_MAX or self._emit_bytes > EMIT_QUEUE_BYTES_MAX
        ):
            oldest = emits.popleft()
            self._emit_bytes -= oldest.batch.size
            dropped += oldest.batch.count
        return {"emits_dropped": dropped} if dropped else {}

    def next_bulk(self) -> Packet | None:
        """The packet whose turn it is within the window; it stays until `taken`."""
        if self.emits and (self._emits_turn or not self.bulk):
            return self.emits[0]
        return self.bulk[0] if self.bulk else None

    def taken(self, packet: Packet) -> None:
        """It has left, or never will."""
        if type(packet) is Emit:
            self.emits.popleft()
            self._emit_bytes -= packet.batch.size
            self._emits_turn = False
        else:
            self.bulk.popleft()
            self._emits_turn = True

    def clear_bulk(self) -> dict[str, int]:
        """The connection is gone; what goes with it without being sent again, by its counter."""
        self.bulk.clear()
        dropped = sum(packet.batch.count for packet in self.emits)
        self.emits.clear()
        self._emit_bytes = 0
        return {"emits_dropped": dropped} if dropped else {}

    def clear(self) -> dict[str, int]:
        """The peer cannot be reached: nothing waits any more."""
        packets = len(self.control) + len(self.bulk)
        self.control.clear()
        lost = self.clear_bulk()
        return lost | ({"packet_dropped_unreachable": packets} if packets else {})
