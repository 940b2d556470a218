"""The names of things: nodes, sessions, dots and runs of them.

Ids are bytes, not text: they travel in every packet and sort the same
everywhere. A dot (session, seq) names a message for ever; code on the hot path
never handles one dot but a `Run`: consecutive seqs of one session.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

NodeId = bytes
"""8 random bytes, drawn once and kept in the node's store."""

Session = bytes
"""8 random bytes, drawn by a publisher's node at each boot."""

ConsumerId = bytes
"""8 random bytes, drawn for each `consume()`."""

ID_BYTES = 8
SEQ_MAX = 2**63 - 1


class PartitionKey(NamedTuple):
    """One partition of a named queue: the unit of ownership, order and replication."""

    queue: str
    number: int


class JobId(NamedTuple):
    """One request as its responder names it: who asked, which process of it, its number there."""

    peer: NodeId
    session: Session
    number: int


class AboutPartition(Protocol):
    """Any packet about a partition of a queue."""

    @property
    def queue(self) -> str:
        """The queue's name."""
        ...

    @property
    def partition(self) -> int:
        """The partition's number."""
        ...


def key_of(packet: AboutPartition) -> PartitionKey:
    """The partition that a packet is about."""
    return PartitionKey(packet.queue, packet.partition)


class Dot(NamedTuple):
    """The name of one message; dots are in order by session, then by seq."""

    session: Session
    seq: int


class Run(NamedTuple):
    """The dots (session, first) … (session, last), both ends included."""

    session: Session
    first: int
    last: int

    @property
    def length(self) -> int:
        """How many dots the run holds."""
        return self.last - self.first + 1


def total(runs: tuple[Run, ...] | list[Run]) -> int:
    """How many dots the runs hold together."""
    return sum(run.last - run.first + 1 for run in runs)
