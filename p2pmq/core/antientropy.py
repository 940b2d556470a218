"""Anti-entropy: what two replicas of a partition differ in, at a cost in proportion to that.

Range-based set reconciliation (Meyer, *Range-Based Set Reconciliation*, 2023):
dots are in order by session and seq. If the digests of two whole states differ,
the asked side cuts its own into pieces and says the digest of each; the asking
side looks which of these differ from its own, and asks for them, until a piece
is so small that all its runs are told. A state that is told at once is one
piece. So equal states cost one digest, and one message in a million costs a few
hundred digests, however fragmented the rest is.

Invariant: the pieces of a range tile it.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

from p2pmq.core.dots import DotSet
from p2pmq.core.ids import ID_BYTES, SEQ_MAX, Dot, Run
from p2pmq.core.packets.publishing import RunField
from p2pmq.core.packets.replicating import RangeField

if TYPE_CHECKING:
    from collections.abc import Sequence

    from p2pmq.core.ids import Session
    from p2pmq.core.partition import Partition

PIECES = 64
"""Into so many a range is cut."""
RUNS_TOLD = 128
"""A range with at most so many runs is told, not cut."""
RUNS_TOLD_AT_ONCE = 1_024
"""So are all that are asked for, if they have no more together: one frame, one round trip less."""
ROUNDS_MAX = 16
"""More than any two states need that answer truthfully."""


class Span(NamedTuple):
    """The dots from `low` to `high`, both included."""

    low: Dot
    high: Dot


ALL = Span(Dot(bytes(ID_BYTES), 0), Dot(b"\xff" * ID_BYTES, SEQ_MAX))


class Told(NamedTuple):
    """What an answer says of the spans asked for: pieces, and the runs of those without digest."""

    pieces: list[RangeField]
    seen: list[RunField]
    pending: list[RunField]


def digest_of(partition: Partition, span: Span = ALL) -> bytes:
    """8 bytes that two replicas share if and only if (but for chance) they are equal there.

    That of all is remembered until something changes.
    """
    version = (partition.seen.changes, partition.unacked.changes)
    if span == ALL and partition.known_digest[:2] == version:
        return partition.known_digest[2]
    sketch = hashlib.blake2b(digest_size=8)
    for dots in (partition.seen, partition.unacked):
        for session, seqs in dots.between(*span):
            sketch.update(session)
            sketch.update(repr(seqs.bounds()).encode())
        sketch.update(b"/")
    digest = sketch.digest()
    if span == ALL:
        partition.known_digest = (*version, digest)
    return digest


def tell(partition: Partition, asked: Sequence[Span]) -> Told:
    """Tell what is here in these spans: all of it, or the digests of pieces."""
    told = Told([], [], [])
    counts = [_count(partition, span) for span in asked]
    at_once = sum(counts) <= RUNS_TOLD_AT_ONCE
    for span, count in zip(asked, counts, strict=True):
        if at_once or count <= RUNS_TOLD:
            told.pieces.append(field_of(span))
            told.seen.extend(_runs(partition.seen, span))
            told.pending.extend(_runs(partition.unacked, span))
        else:
            for piece in cut_up(partition, span, count):
                told.pieces.append(field_of(piece, digest_of(partition, piece)))
    return told


def in_parts(told: Told, size: int) -> list[Told]:
    """An answer in parts of so many pieces and runs; at least one."""
    after_pieces = len(told.pieces)
    after_seen = after_pieces + len(told.seen)
    count = after_seen + len(told.pending)
    return [
        Told(
            told.pieces[at : at + size],
            told.seen[max(0, at - after_pieces) : max(0, at + size - after_pieces)],
            told.pending[max(0, at - after_seen) : max(0, at + size - after_seen)],
        )
        for at in range(0, max(1, count), size)
    ]


def cut_up(partition: Partition, span: Span, count: int) -> list[Span]:
    """Tile the span, which has so many runs, with about PIECES that have as many each."""
    size = -(-count // PIECES)
    starts: list[Dot] = []
    room = 0
    sessions: dict[Session, list[int]] = {}
    for dots in (partition.seen, partition.unacked):
        for session, seqs in dots.between(*span):
            lows = seqs.bounds()[0]
            if len(lows) > len(sessions.get(session, ())):
                sessions[session] = lows
    for session in sorted(sessions):
        lows = sessions[session]
        starts += [Dot(session, low) for low in lows[room::size]]
        room = (room - len(lows)) % size
    return _tiles(span, starts)


def _tiles(span: Span, starts: list[Dot]) -> list[Span]:
    """The spans that begin where `span` does and at each of the starts, which are in order."""
    tiles: list[Span] = []
    low = span.low
    for start in starts:
        if start > low:
            tiles.append(Span(low, _before(start)))
            low = start
    return [*tiles, Span(low, span.high)]


def do_tile(pieces: Sequence[Span], asked: Sequence[Span]) -> bool:
    """Whether the pieces, in any order, are just what was asked for.

    What no piece covers would be taken for equal: the one mistake that loses data.
    """
    rest = iter(sorted(pieces))
    for span in sorted(asked):
        low = span.low
        while (piece := next(rest, None)) is not None:
            if piece.low != low or not piece.low <= piece.high <= span.high:
                return False
            if piece.high == span.high:
                break
            low = _after(piece.high)
        if piece is None:
            return False
    return next(rest, None) is None


def _after(dot: Dot) -> Dot:
    """The dot just after this one, which is not the last of all."""
    if dot.seq < SEQ_MAX:
        return Dot(dot.session, dot.seq + 1)
    return Dot((int.from_bytes(dot.session) + 1).to_bytes(ID_BYTES), 0)


def _before(dot: Dot) -> Dot:
    """The dot just before this one, which is not the first of all."""
    if dot.seq:
        return Dot(dot.session, dot.seq - 1)
    return Dot((int.from_bytes(dot.session) - 1).to_bytes(ID_BYTES), SEQ_MAX)


def _count(partition: Partition, span: Span) -> int:
    sets = (partition.seen, partition.unacked)
    return sum(len(seqs) for dots in sets for _, seqs in dots.between(*span))


def _runs(dots: DotSet, span: Span) -> list[RunField]:
    return [
        RunField(session, low, high)
        for session, seqs in dots.between(*span)
        for low, high in seqs.pairs()
    ]


def field_of(span: Span, digest: bytes = bytes(8)) -> RangeField:
    """A span as a field. Without a digest: to be told, or told."""
    return RangeField(span.low.session, span.low.seq, span.high.session, span.high.seq, digest)


def span_of(field: RangeField) -> Span:
    """The span of a field."""
    return Span(Dot(field.low_session, field.low), Dot(field.high_session, field.high))


def within(dots: DotSet, spans: Sequence[Span]) -> DotSet:
    """What of the dots lies in the spans."""
    if ALL in spans:
        return dots
    return DotSet(
        Run(session, low, high)
        for span in spans
        for session, seqs in dots.between(*span)
        for low, high in seqs.pairs()
    )
