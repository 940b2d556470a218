"""Whether a part of a mesh has come to rest, though others are away and stay away.

A queue whose owner is away is nobody's to empty: what is meant for it waits,
as promised. So here only that counts as under way whose owner is there.

Likewise one whose owner reaches too few copies, and messages that are dead, where the owner of
their dead-letter queue is away, or whose outputs go to such an owner; and what has to wait
behind those, since their consumers may hold no more.

Invariant: it only reads.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from p2pmq.core.ids import PartitionKey
from p2pmq.core.names import dead_letters_of
from p2pmq.sim.views import differing_views, is_home, running

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from p2pmq.core.delivery import PartitionDelivery
    from p2pmq.sim.host import Host
    from p2pmq.sim.network import SimNetwork
    from p2pmq.sim.watch import WatchedMachine


def under_way(hosts: Sequence[Host], network: SimNetwork) -> list[str]:
    """For each thing that these hosts could finish by themselves and have not, a line."""
    lines = differing_views(hosts, network)
    alone = _alone(hosts)
    tied = _tied_to_who_is_away(hosts, alone)
    for host in running(hosts):
        assert host.machine is not None
        lines += _unsent(host, host.machine, alone)
        lines += _unsettled(host, host.machine, alone)
        lines += _undelivered(host, host.machine, alone, tied)
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
        # One that only extends is no work to be finished: what is held is counted where it lies,
        # and a message whose outputs wait for an owner that is away is extended again and again.
        settles = [settle for settle in subscription.settles if settle.acks or settle.nacks]
        if settles and machine.owner_of(key) is not None and key not in alone:
            yield f"{host.name} has settles for {key.queue!r} that its owner has not confirmed"


def _tied_to_who_is_away(hosts: Sequence[Host], alone: set[PartitionKey]) -> Counter[PartitionKey]:
    """How many messages of each partition wait for outputs whose owner is away."""
    tied: Counter[PartitionKey] = Counter()
    for host in running(hosts):
        assert host.machine is not None
        for key, places in host.machine.settling.awaited:
            tied[key] += any(host.machine.owner_of(to) is None or to in alone for to in places)
    return tied


def _undelivered(
    host: Host,
    machine: WatchedMachine,
    alone: set[PartitionKey],
    tied: Counter[PartitionKey],
) -> Iterator[str]:
    for key, partition in machine.owner.partitions.items():
        held_up = _not_to_be_buried(machine, key, alone) + tied[key]
        count = partition.waiting - held_up
        if held_up and partition.has_keys:
            count = 0  # the others may wait behind them
        delivery = machine.owner.deliveries.get(key)
        if tied[key] and delivery is not None and not _has_credit(delivery):
            count = delivery.leases.count + partition.resting - tied[key]
        if count <= 0 or machine.owner_of(key) is None or key in alone:
            continue
        if not machine.owner.owns(key):
            if is_home(machine, key):
                continue
            yield f"{host.name} holds {count} of {key.queue!r}, which it does not own"
        elif delivery is not None and delivery.consumers and count > partition.resting:
            yield f"queue {key.queue!r} on {host.name} has consumers, and {count} messages"


def _has_credit(delivery: PartitionDelivery) -> bool:
    return any(consumer.credit > 0 for consumer in delivery.consumers.values())


def _not_to_be_buried(machine: WatchedMachine, key: PartitionKey, alone: set[PartitionKey]) -> int:
    """How many messages wait only for the owner of their dead-letter queue, who is away."""
    condemned = machine.replication.condemned(key)
    to = PartitionKey(dead_letters_of(key.queue)[0], 0)
    if not condemned or not to.queue or (machine.owner_of(to) is not None and to not in alone):
        return 0
    return condemned.count


def has_resting(host: Host) -> bool:
    """Whether the host owns messages that are not due yet."""
    owner = host.machine.owner if host.machine is not None else None
    return owner is not None and any(
        partition.resting and owner.owns(key) for key, partition in owner.partitions.items()
    )


def has_homes_here(hosts: Sequence[Host], queue: str) -> bool:
    """Whether enough homes of every partition are among these hosts to know all that is committed.

    Where there are not W, the owner of one that was never used may have to look for them in vain;
    and where W others are away, they alone may have what they have committed.
    """
    there = running(hosts)
    ids = {host.disk.contents.node_id for host in there}
    machine = next((host.machine for host in there if host.machine is not None), None)
    if machine is None:
        return False
    found = [machine.homes_of(key) for key in machine.partitions_of(queue)]
    return all(
        sum(home in ids for home in homes) >= max(wanted, len(homes) - wanted + 1)
        for homes, wanted in found
    )


def without_owner(hosts: Sequence[Host], queues: Sequence[str]) -> list[str]:
    """The queues of which an owner is away, as these hosts see it, or reaches too few copies."""
    there, alone = running(hosts), _alone(hosts)
    tied = _tied_to_who_is_away(hosts, alone)
    machines = [host.machine for host in there if host.machine is not None]
    return [
        queue
        for queue in queues
        if any(
            machine.owner_of(key) is None
            or key in alone
            or tied[key]
            or _not_to_be_buried(machine, key, alone)
            for machine in machines
            for key in machine.partitions_of(queue)
        )
    ]
