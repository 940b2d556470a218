"""A node's schedules: what is published again and again, once in the whole mesh."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from p2pmq.core import effects, events
from p2pmq.core.packets.scheduling import SCHEDULE_BODY_BYTES_MAX, ScheduleRecord
from p2pmq.errors import BodyTooLargeError, NotScheduledError
from p2pmq.node.arguments import check_name, checked_priority, key_of, to_ms
from p2pmq.node.binding import Binding
from p2pmq.node.cron import checked_cron, next_tick
from p2pmq.wire.bodies import FORMAT_RAW, pack_body, unpack_body

if TYPE_CHECKING:
    from p2pmq.core.ids import NodeId

NO_AUTHOR: NodeId = b"\0" * 8
"""The core sets it, with the stamp."""


@dataclass(frozen=True, slots=True)
class ScheduleInfo:
    """A schedule, as this node knows it; `next_at` is its next tick by this host's clock.

    >>> import asyncio, p2pmq
    >>> async def main():
    ...     async with p2pmq.Node("doc", mdns=False, store="memory") as node:
    ...         await node.schedule("report", "0 6 * * 1-5", queue="jobs", body="make it")
    ...         (found,) = node.schedules()
    ...         return found.name, found.queue, found.body, found.next_at.hour
    >>> asyncio.run(main())
    ('report', 'jobs', 'make it', 6)
    """

    name: str
    cron: str
    queue: str
    body: object
    ttl: float | None
    priority: int
    next_at: datetime | None


class Scheduling(Binding):
    """What a node does with schedules."""

    async def schedule(
        self,
        name: str,
        cron: str,
        queue: str,
        body: object = None,
        *,
        ttl: float | None = None,
        priority: int = 0,
    ) -> ScheduleInfo:
        """Publish `body` into the queue whenever `cron` says, until `unschedule`.

        One message for each tick in the whole mesh, published by whoever owns the queue then;
        this node may be away. `cron` has five fields, in UTC: minute, hour, day of the month,
        month, day of the week; or is `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`.
        Ticks that nobody could publish in time are made up for within five minutes, and skipped
        after that. `body` (at most 16 KiB packed), `ttl` and `priority` are as in `publish`; `ttl`
        keeps ticks from piling up where nobody consumes.

        The latest schedule of a name holds, on every node as it hears of it; the same one again
        changes nothing, so that services may say it at every start. It is on this node's disk when
        this returns. Raises UsageError, QueueNameError, NotSerializableError, BodyTooLargeError,
        NotScheduledError, ClosedNodeError.
        """
        self._check_running()
        check_name("schedule", name)
        data, body_format = (body, FORMAT_RAW) if type(body) is bytes else pack_body(body)
        if len(data) > SCHEDULE_BODY_BYTES_MAX:
            raise BodyTooLargeError(len(data), SCHEDULE_BODY_BYTES_MAX)
        record = ScheduleRecord(
            name,
            0,
            NO_AUTHOR,
            checked_cron(cron, int(self._world.wall_clock())),
            key_of(queue).queue,
            data,
            body_format,
            0 if ttl is None else to_ms(ttl, 1),
            checked_priority(priority),
        )
        await self._say(record)
        return self._info(record)

    async def unschedule(self, name: str) -> None:
        """Publish no more of that schedule; what is in the queue stays.

        It holds on every node as it hears of it, and against every earlier `schedule` of the name,
        also one that is known only to members that are away. Raises UsageError,
        NotScheduledError, ClosedNodeError.
        """
        self._check_running()
        check_name("schedule", name)
        await self._say(ScheduleRecord(name, 0, NO_AUTHOR, removed=True))

    def schedules(self) -> list[ScheduleInfo]:
        """The schedules in force, as this node knows them, by name."""
        self._check_running()
        return [self._info(record) for record in self._machine.schedules.in_force()]

    async def _say(self, record: ScheduleRecord) -> None:
        token, future = self._wait_token()
        self._driver.feed(events.ScheduleRequested(record, token))
        outcome = await future
        if isinstance(outcome, effects.Refused):
            raise NotScheduledError(record.name, outcome.reason)

    def _info(self, record: ScheduleRecord) -> ScheduleInfo:
        next_s = next_tick(record.cron, int(self._world.wall_clock()))
        return ScheduleInfo(
            record.name,
            record.cron,
            record.queue,
            unpack_body(record.body, record.body_format),
            record.ttl_ms / 1000 if record.ttl_ms else None,
            record.priority,
            None if next_s is None else datetime.fromtimestamp(next_s, UTC),
        )
