"""Whether a part of a mesh has come to rest, though others are away and stay away.

A queue whose owner is away is nobody's to empty: what is meant for it waits,
as promised. So here only that counts as under way whose owner is there.

Likewise one whose owner reaches too few copies.

Invariant: it only reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pmq.core.ids import PartitionKey
from p2pmq.sim.views import differing_views, is_home, running

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from p2pmq.sim.host import Host
    from p2pmq.sim.network import SimNetwork
    from p2pmq.sim.watch import WatchedMachine


def under_way(hosts: Sequence[Host], network: SimNetwork) -> list[str]:
    """For each thing that these hosts could finish by themselves and have not, a line."""
    lines = differing_views(hosts, network)
    alone = _alone(hosts)
    for host in running(hosts):
        assert host.machine is not None
        lines += _unsent(host, host.machine, alone)
        lines += _unsettled(host, host.machine, alone)
        lines += _undelivered(host, host.machine, alone)
    return lines


def _alone(hosts: Sequence[Host]) -> set[PartitionKey]:
    """The partitions whose owner reaches too few copies to commit or deliver anything."""
    machines = [host.machine for host in running(hosts) if host.machine is not None]
    return {
        key
        for machine in machines
        for key in machine.owner.partitions
        if machine.owner.owns(key) and machine.replication.is_alone(key)
    }


def _unsent(host: Host, machine: WatchedMachine, alone: set[PartitionKey]) -> Iterator[str]:
    for key, streams in machine.outbox._by_key.items():  # noqa: SLF001  the protocol itself never asks for this
        count = sum(entry.batch.count for stream in streams for entry in stream.entries)
        if count and machine.owner_of(key) is not None and key not in alone:
            yield f"{host.name} has {count} messages for {key.queue!r} in its outbox"


def _unsettled(host: Host, machine: WatchedMachine, alone: set[PartitionKey]) -> Iterator[str]:
    for subscription in machine.consuming._subscriptions.values():  # noqa: SLF001  as above
        key = subscription.key
        if subscription.settles and machine.owner_of(key) is not None and key not in alone:
            yield f"{host.name} has settles for {key.queue!r} that its owner has not confirmed"


def _undelivered(host: Host, machine: WatchedMachine, alone: set[PartitionKey]) -> Iterator[str]:
    for key, partition in machine.owner.partitions.items():
        count = partition.waiting
        delivery = machine.owner.deliveries.get(key)
        if not count or machine.owner_of(key) is None or key in alone:
            continue
        if not machine.owner.owns(key):
            if is_home(machine, key):
                continue
            yield f"{host.name} holds {count} of {key.queue!r}, which it does not own"
        elif delivery is not None and delivery.consumers and count > partition.resting:
            yield f"queue {key.queue!r} on {host.name} has consumers, and {count} messages"


def without_owner(hosts: Sequence[Host], queues: Sequence[str]) -> list[str]:
    """The queues whose owner is away, as these hosts see it, or has too few copies in reach."""
    there, alone = running(hosts), _alone(hosts)
    return [
        queue
        for queue in queues
        if any(host.node.owner_of(queue) is None for host in there)
        or PartitionKey(queue, 0) in alone
    ]
