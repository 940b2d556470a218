"""What a simulation knows of its nodes from outside: who sees whom, and what is under way.

Used to wait for a mesh to settle and to time how long a heal takes; it only
reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pmq.core.membership import MemberState
from p2pmq.sim.host import HostState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from p2pmq.core.ids import PartitionKey
    from p2pmq.sim.host import Host
    from p2pmq.sim.network import SimNetwork
    from p2pmq.sim.watch import WatchedMachine

SHOWN_MAX = 5
LINES_MAX = 20


def running(hosts: Sequence[Host]) -> list[Host]:
    """The hosts whose node runs, is not paused and has started."""
    return [h for h in hosts if h.state is HostState.UP and h.machine is not None]


def components(hosts: Sequence[Host], network: SimNetwork) -> list[list[Host]]:
    """The running hosts, grouped by whom they can reach over paths open in both directions."""
    left = running(hosts)
    if left and not network.has_cuts:
        return [left]
    groups: list[list[Host]] = []
    while left:
        group, left = [left[0]], left[1:]
        for member in group:  # grows while it is walked
            reached = [h for h in left if not network.is_cut(member.name, h.name)]
            group += reached
            left = [h for h in left if h not in reached]
        groups.append(group)
    return groups


def differing_views(hosts: Sequence[Host], network: SimNetwork) -> list[str]:
    """Lines about nodes that do not see just their component alive, or know other settings.

    It is asked again and again until there are none, so it is quick where views are equal.
    """
    lines: list[str] = []
    for group in components(hosts, network):
        expected = {host.disk.contents.node_id: host.name for host in group}
        for host in group:
            if len(lines) >= LINES_MAX:
                return lines
            if not _sees_just(host, expected):
                lines += _differing_view(host, expected)
        lines += _differing_settings(group)
    return lines


def _differing_settings(group: Sequence[Host]) -> list[str]:
    """Whether some know other settings of queues than the first, as a line."""
    digests = {h.name: h.machine.registry.digest() for h in group if h.machine is not None}
    first = next(iter(digests), "")
    others = [name for name, digest in digests.items() if digest != digests[first]]
    if not others:
        return []
    return [f"{', '.join(others[:SHOWN_MAX])}: other settings of queues than {first} knows"]


def _sees_just(host: Host, expected: dict[bytes, str]) -> bool:
    machine = host.machine
    assert machine is not None
    members = machine.swim.members
    return machine.swim.alive_count == len(expected) and all(
        node_id in members and members[node_id].state is MemberState.ALIVE for node_id in expected
    )


def _differing_view(host: Host, expected: dict[bytes, str]) -> list[str]:
    machine = host.machine
    assert machine is not None
    roster = {m.node_id: m for m in machine.swim.roster() if machine.swim.is_alive(m.node_id)}
    missing = [name for node_id, name in expected.items() if node_id not in roster]
    extra = [m.name for node_id, m in roster.items() if node_id not in expected]
    doubted = [m.name for m in roster.values() if m.state != MemberState.ALIVE]
    found = (("does not see", missing), ("still sees", extra), ("suspects", doubted))
    return [f"{host.name} {what} {', '.join(names)}" for what, names in found if names]


def unfinished_work(hosts: Sequence[Host]) -> list[str]:
    """For each thing that is still under way on a running node, a line that says so."""
    lines: list[str] = []
    for host in running(hosts):
        machine = host.machine
        assert machine is not None
        if machine.outbox.messages:
            lines.append(f"{host.name} has {machine.outbox.messages} messages in its outbox")
        if machine.settling.unconfirmed:
            lines.append(
                f"{host.name} has {machine.settling.unconfirmed} settles that no owner confirmed"
            )
        lines += _unfinished_queues(host, machine)
    return lines + different_copies(hosts)


def different_copies(hosts: Sequence[Host]) -> list[str]:
    """For each replica that holds other messages than the owner does, a line that says so."""
    machines = [host.machine for host in running(hosts) if host.machine is not None]
    lines: list[str] = []
    for host in running(hosts):
        assert host.machine is not None
        for key, copy in host.machine.owner.partitions.items():
            if host.machine.owner.owns(key) or not is_home(host.machine, key):
                continue
            for machine in machines:
                own = machine.owner.partitions.get(key)
                if own is None or not machine.owner.owns(key):
                    continue
                if own.pending.count != copy.pending.count:
                    lines.append(
                        f"{host.name} has a copy of {key.queue!r} with {copy.pending.count} "
                        f"messages, of which its owner has {own.pending.count}"
                    )
    return lines


def is_home(machine: WatchedMachine, key: PartitionKey) -> bool:
    """Whether a copy of the partition belongs on this node, as far as it knows."""
    return machine.node_id in machine._ownership.homes_of(key)[0]  # noqa: SLF001  the protocol never asks for this from without


def _unfinished_queues(host: Host, machine: WatchedMachine) -> list[str]:
    lines: list[str] = []
    for key, partition in machine.owner.partitions.items():
        count = partition.waiting
        if not machine.owner.owns(key):
            if count and not is_home(machine, key) and key not in machine.handovers.standing:
                lines.append(f"{host.name} holds {count} of {key.queue!r}, which it does not own")
            continue
        delivery = machine.owner.deliveries.get(key)
        if count > partition.resting and delivery is not None and delivery.consumers:
            lines.append(
                f"queue {key.queue!r} on {host.name} has consumers, and {count} messages: "
                f"{delivery.leases.count} held by consumers, {delivery.delays.count} delayed"
            )
    return lines


def failed_tasks(hosts: Sequence[Host]) -> list[str]:
    """The user's tasks that ended in an error, for those who wonder why nothing goes on."""
    return [f"task {line}" for host in hosts for line in host.failed_tasks][:SHOWN_MAX]
