"""What a node's user does with queues and members as a whole: declare, look, replay, purge."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from p2pmq.core import effects, events
from p2pmq.core.names import check_queue_name
from p2pmq.errors import (
    NotDeclaredError,
    NotDeletedError,
    NotPurgedError,
    RequestTimeoutError,
    UsageError,
)
from p2pmq.node.arguments import place_of, to_ms
from p2pmq.node.receipts import MemberInfo, QueueDepth, depth_of, info_of
from p2pmq.node.replay import Retained, cursor_of, replayed_all
from p2pmq.node.scheduling import Scheduling
from p2pmq.node.settings import QueueInfo, Settings, check_lone, checked_settings, queue_info

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from datetime import datetime
    from typing import Unpack

    from p2pmq.core.packets.publishing import QueueStats


class Managing(Scheduling):
    """What a node does with queues and members as a whole."""

    # -- settings --

    async def declare(self, queue: str, **settings: Unpack[Settings]) -> QueueInfo:
        """Give a queue settings of its own, on every node of the mesh; now or at any later time.

        `replicas` (R, 1 to 9) is on how many nodes' disks its messages are kept,
        `min_copies` (W, 1 to R) on how many of them a message must be fsynced to
        be committed: 1 keeps every side of a partition available.
        After `max_deliveries` failures a message goes to `<queue>.dlq`; before, it
        rests for `backoff` seconds after the first and twice as long after each
        further one, at most `backoff_max`. `visibility_timeout` is that of
        consumers, `ttl` that of messages, both in seconds, where they name none.
        `max_messages` and `max_bytes` are what the queue holds at most, as its owner
        counts. `overflow` is what happens beyond: "block" keeps new messages in their
        publishers' outboxes, "reject" makes `publish` raise QueueFullError, and
        "drop-oldest" drops the oldest that no consumer holds.
        `dedup_window` is for how many seconds the ids of messages are remembered (120).
        `retain`: for how many seconds messages can be replayed, acked or not, and
        `retain_bytes` how many bytes of them at most.
        `ageing`: a message that has waited so many seconds longer goes before one of
        the next higher priority, so that no priority starves.
        What is left out is the mesh's default (`Config.replication`, `.retry`,
        `.timing`), and a majority of R; but `partitions` (1 to 256), over how many the
        queue is spread, then stay as many as they are: their number can be raised, and
        never lowered. The latest declaration holds; it is on
        this node's disk when this returns, and the others learn it as they are
        reached. No queue needs to be declared.

        Raises UsageError, QueueNameError, NotDeclaredError, ClosedNodeError.
        """
        self._check_running()
        check_queue_name(queue)
        check_lone(queue, settings.get("partitions"))
        checked = checked_settings(self.settings.config, settings)
        token, future = self._wait_token()
        self._driver.feed(events.DeclareRequested(queue, checked, token))
        outcome = await future
        if isinstance(outcome, effects.Refused):
            raise NotDeclaredError(queue, outcome.reason)
        return self.settings_of(queue)

    def settings_of(self, queue: str) -> QueueInfo:
        """The settings of a queue that are in force, as this node knows them."""
        self._check_running()
        check_queue_name(queue)
        return queue_info(queue, self._machine, self.settings.config)

    async def purge(self, queue: str) -> int:
        """Remove every message that waits in the queue now, everywhere; how many those were.

        What consumers hold, and what rests after a failure, stays. When it returns, the
        removal is on the owner's disk, and the other copies in reach are told; those that are away
        learn it when they are back. Counted as `purged`. Raises NotPurgedError, QueueNameError,
        ClosedNodeError.
        """
        self._check_running()
        place_of(queue)
        timeout_ms = self.settings.config.timing.confirm_timeout_ms
        waits = []
        for key in self._machine.partitions_of(queue):
            token, future = self._wait_token()
            self._driver.feed(events.PurgeRequested(key, timeout_ms, token))
            waits.append(future)
        outcomes = await asyncio.gather(*waits)
        refused = [each for each in outcomes if isinstance(each, effects.Refused)]
        count = sum(each.count for each in outcomes if isinstance(each, effects.Purged))
        if refused:
            done = f"; {count:,} messages of other partitions are gone" if count else ""
            raise NotPurgedError(queue, f"{refused[0].reason}{done}")
        return count

    async def delete(self, queue: str) -> None:
        """Delete a queue: its messages, its settings, and its bindings and schedules.

        All that its owners have by then goes, held by consumers or not, with what is
        retained of it and the ids that it remembers; also from the disks of nodes that are
        away, when they hear of it. What is published under the name later, or waits in
        an outbox still, is in a new queue with the mesh's settings; consumers stay. Its
        dead-letter queue stays too: delete that by its own name. Counted as `deleted`.
        When it returns, the deletion is on this node's disk, and those in reach are told.
        Raises NotDeletedError, QueueNameError, ClosedNodeError; NotBoundError and
        NotScheduledError if the disk is full for what is bound and scheduled into it.

        >>> import asyncio, p2pmq
        >>> async def main():
        ...     async with p2pmq.Node("doc", mdns=False, store="memory") as node:
        ...         await node.publish("orders", b"hello")
        ...         await node.delete("orders")
        ...         return (await node.depth("orders")).total
        >>> asyncio.run(main())
        0
        """
        self._check_running()
        place_of(queue)
        timeout_ms = self.settings.config.timing.confirm_timeout_ms
        token, future = self._wait_token()
        places = tuple(self._machine.partitions_of(queue))
        self._driver.feed(events.DeletionRequested(queue, places, timeout_ms, token))
        outcome = await future
        if isinstance(outcome, effects.Refused):
            raise NotDeletedError(queue, outcome.reason)
        for binding in self.bindings():
            if binding.queue == queue:
                await self.unbind(binding.pattern, queue=queue)
        for schedule in self.schedules():
            if schedule.queue == queue:
                await self.unschedule(schedule.name)

    # -- looking --

    async def depth(self, queue: str) -> QueueDepth:
        """How many messages the queue holds, mailboxes (`@name`) too, as its owners count them.

        Raises RequestTimeoutError if an owner is away or silent.
        """
        place_of(queue)
        stats = await self._ask_stats(queue)
        owners = self._owners_of(queue)
        if stats.missing or None in owners:
            silent = self._name_of(stats.missing[0]) if stats.missing else None
            raise RequestTimeoutError(
                f"the owner of queue {queue!r} ({silent or 'away'}) did not answer in time: "
                "its messages are on its disk; ask again when it is back"
            )
        return depth_of(queue, stats.queues, owners, self._machine.copies_of(queue))

    def _owners_of(self, queue: str) -> list[str | None]:
        """The names of the living owners of a queue's partitions."""
        places = self._machine.partitions_of(queue)
        return [self._name_of(self._machine.owner_of(place)) for place in places]

    async def queues(self) -> list[QueueDepth]:
        """Every queue that a living owner holds, by name.

        An owner that does not answer in time (`Timing.stats_timeout_ms`) is left out.
        """
        stats = await self._ask_stats("")
        found: dict[str, list[QueueStats]] = {}
        for partition in stats.queues:
            found.setdefault(partition.queue, []).append(partition)
        return [
            depth_of(queue, found[queue], self._owners_of(queue), self._machine.copies_of(queue))
            for queue in sorted(found)
        ]

    def replay(
        self,
        queue: str,
        *,
        since: float | datetime | None = None,
        timeout: float = 30.0,
    ) -> AsyncIterator[Retained]:
        """What the queue retains (`declare(retain=)`), in order, acked or not; it ends at the last.

        Of several partitions each is in order; between them it is the owners' clocks that count.

        `since`: from what the owner took then, a datetime with its zone or seconds since
        1970 (None: from the oldest). Nothing is consumed by it. Raises RequestTimeoutError
        when no owner has answered for `timeout` seconds, UsageError, QueueNameError, and
        ClosedNodeError.
        """
        self._check_running()
        place_of(queue)
        places, cursor = self._machine.partitions_of(queue), cursor_of(since)
        return replayed_all(self._ask_page, asyncio.sleep, places, cursor, to_ms(timeout, 1))

    def members(self) -> list[MemberInfo]:
        """Every member of the roster as this node sees it, by name; itself among them."""
        self._check_running()
        infos = [info_of(member, self.node_id) for member in self._machine.swim.roster()]
        return sorted(infos, key=lambda info: info.name)

    def owner_of(self, queue: str, partition: int = 0) -> str | None:
        """The name of the living owner of the queue, or of one of its partitions, as seen here."""
        self._check_running()
        key = place_of(queue)._replace(number=partition)
        return self._name_of(self._machine.owner_of(key))

    async def forget(self, name: str) -> None:
        """Take a member that is gone for good off the roster; its queues get new owners.

        Raises UsageError where no dead member has the name.
        """
        self._check_running()
        for member in self._machine.swim.roster():
            if member.name == name and not self._machine.swim.is_alive(member.node_id):
                token, future = self._wait_token()
                self._driver.feed(events.ForgetRequested(member.node_id, token))
                await future
                return
        raise UsageError(
            f"no dead member is named {name!r}: only one that is gone can be forgotten "
            "(`p2pmq peers` lists them)"
        )

    # -- within --

    async def _ask_page(self, event_of: Callable[[int], events.Event]) -> effects.Page:
        self._check_running()
        token, future = self._wait_token()
        self._driver.feed(event_of(token))
        page: effects.Page = await future
        return page

    async def _ask_stats(self, queue: str) -> effects.Stats:
        self._check_running()
        token, future = self._wait_token()
        timeout_ms = self.settings.config.timing.stats_timeout_ms
        self._driver.feed(events.StatsRequested(queue, timeout_ms, token))
        stats: effects.Stats = await future
        return stats
