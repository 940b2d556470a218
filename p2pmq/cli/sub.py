"""`p2pmq sub` and `p2pmq inbox`: messages as lines, each acked once its line is written.

At least once: what was written and whose ack then got lost, with this process
or with the owner, is delivered and written again.

Invariant: nothing is acked before it is written; into a file, durably.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from typing import TYPE_CHECKING, Any

from p2pmq.cli.offloop import OffLoop, write_whole
from p2pmq.cli.output import Meter, metered, say, with_rate
from p2pmq.cli.session import visiting
from p2pmq.errors import RequestTimeoutError

if TYPE_CHECKING:
    from pathlib import Path

    from p2pmq.cli.options import MeshOptions, TakeOptions, VisitOptions
    from p2pmq.cli.places import Place
    from p2pmq.node.message import Message, MessageBatch
    from p2pmq.node.node import Node

STDOUT = 1
PREFETCH = 4_096


async def consume_lines(
    place: Place, mesh: MeshOptions, visit: VisitOptions, take: TakeOptions, *, as_json: bool
) -> int:
    """Write messages until the end, a signal, or until nobody reads any more; the exit code."""
    with _opened(take.out) as descriptor:
        async with visiting(mesh, visit, "sub") as node:
            with _metered(place.queue, take, descriptor) as meter:
                consuming = Consuming(node, place, descriptor, meter, as_json=as_json)
                # The ways in which a person ends it: Ctrl-C, and closing the pipe.
                with suppress(asyncio.CancelledError, BrokenPipeError):
                    await consuming.run(take)
    consuming.report()
    return 0


@contextmanager
def _opened(out: Path | None) -> Iterator[int]:
    """The descriptor to write to. A file is appended to: what it holds was acked."""
    if out is None:
        yield STDOUT
        return
    descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _metered(queue: str, take: TakeOptions, descriptor: int) -> Iterator[Meter]:
    """A progress bar, unless the lines themselves go to the terminal."""
    if os.isatty(descriptor):
        yield Meter(None, None)
        return
    with metered(f"consuming {queue}", take.count) as meter:
        yield meter


class Consuming:
    """One run of `sub` or `inbox`."""

    def __init__(
        self, node: Node, place: Place, descriptor: int, meter: Meter, *, as_json: bool
    ) -> None:
        self._node = node
        self._place = place
        self._queue = place.queue
        self._descriptor = descriptor
        self._meter = meter
        self._as_json = as_json
        self._writer = OffLoop()
        self._arriving: asyncio.Future[MessageBatch] | None = None
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._ended = self._began
        self.written = 0
        self.redelivered = 0

    async def run(self, take: TakeOptions) -> None:
        """Write batches until it is to end."""
        prefetch = min(PREFETCH, take.count or PREFETCH)
        batches = self._place.consume(self._node, prefetch)
        try:
            while take.count is None or self.written < take.count:
                first = await self._next(batches, take.idle_s)
                if first is None:
                    return
                group = await self._with_others(first, batches)
                wanted = None if take.count is None else take.count - self.written
                await self._write(group, wanted)
        finally:
            if self._arriving is not None:
                self._arriving.cancel()
                await asyncio.wait((self._arriving,))
            await batches.aclose()  # type: ignore[attr-defined]  # an async generator, typed as less

    def report(self) -> None:
        """Say on stderr what was done."""
        seconds = self._ended - self._began
        again = f", {self.redelivered:,} of them redelivered" if self.redelivered else ""
        say(with_rate(f"{self.written:,} messages{again}", self.written, seconds))

    async def _next(
        self, batches: AsyncIterator[MessageBatch], idle_s: float | None
    ) -> MessageBatch | None:
        """The next batch; None when the queue is drained.

        An owner that is away tells no depth: it may hold messages, so this waits on.
        """
        arriving = self._ask(batches)
        told = False
        while True:
            done, _ = await asyncio.wait((arriving,), timeout=idle_s)
            if done:
                self._arriving = None
                return arriving.result()
            left = await self._depth()
            if left == 0 and not arriving.done():
                return None
            if left is None and not told:
                told = True
                say(f"p2pmq: waiting: the owner of {self._queue!r} is away")

    async def _with_others(
        self, first: MessageBatch, batches: AsyncIterator[MessageBatch]
    ) -> list[MessageBatch]:
        """The batch and those that are here too: they share one write and its fsync."""
        group, messages = [first], len(first)
        while messages < PREFETCH:
            arriving = self._ask(batches)
            await asyncio.sleep(0)  # one step is all that it needs if there is a batch
            if not arriving.done():
                break
            self._arriving = None
            group.append(arriving.result())
            messages += len(group[-1])
        return group

    def _ask(self, batches: AsyncIterator[MessageBatch]) -> asyncio.Future[MessageBatch]:
        """The wait for the next batch: one at a time, and never given up half-way."""
        if self._arriving is None:
            self._arriving = asyncio.ensure_future(anext(batches))
        return self._arriving

    async def _depth(self) -> int | None:
        try:
            depth = await self._node.depth(self._queue)
        except RequestTimeoutError:
            return None
        return depth.total - depth.scheduled  # for what is not due nobody waits

    async def _write(self, group: Sequence[MessageBatch], wanted: int | None) -> None:
        """Write up to `wanted` messages, then ack them; the rest goes back when this ends."""
        shares: list[tuple[MessageBatch, int]] = []
        for batch in group:
            share = len(batch) if wanted is None else min(len(batch), wanted)
            wanted = None if wanted is None else wanted - share
            shares.append((batch, share))
        data = b"".join(line for batch, share in shares for line in self._lines(batch, share))
        await self._writer.call(lambda: write_whole(self._descriptor, data))
        for batch, share in shares:
            _ack(batch, share)
            self.written += share
            self.redelivered += share if batch.redelivered else 0
        self._ended = self._loop.time()
        self._meter.show(self.written)

    def _lines(self, batch: MessageBatch, wanted: int) -> Iterator[bytes]:
        if self._as_json:
            for message in islice(batch, wanted):
                yield json.dumps(as_record(message), ensure_ascii=False).encode() + b"\n"
            return
        for body in islice(batch.bodies, wanted):
            yield as_line(body)
            yield b"\n"


def _ack(batch: MessageBatch, count: int) -> None:
    """Ack the first `count` messages of the batch."""
    if count == len(batch):
        batch.ack()
        return
    for message in islice(batch, count):
        message.ack()


def as_line(body: object) -> bytes:
    """A body as it is, if it is bytes; else as JSON."""
    return body if isinstance(body, bytes) else json.dumps(plain(body), ensure_ascii=False).encode()


def as_record(message: Message) -> dict[str, Any]:
    """A message as a JSON object; `body_base64` in place of `body` for bytes that are no UTF-8."""
    record: dict[str, Any] = {
        "queue": message.queue,
        "message_id": message.message_id,
        "attempt": message.attempt,
        "enqueued_at": message.enqueued_at,
    }
    body = message.body
    if not isinstance(body, bytes):
        return record | {"body": plain(body)}
    try:
        return record | {"body": body.decode()}
    except UnicodeDecodeError:
        return record | {"body_base64": base64.b64encode(body).decode()}


def plain(value: object) -> object:
    """`value` with what JSON cannot hold (bytes, odd keys) made text."""
    match value:
        case dict():
            return {
                key if isinstance(key, str) else str(plain(key)): plain(v)
                for key, v in value.items()
            }
        case list() | tuple():
            return [plain(item) for item in value]
        case bytes():
            return value.decode(errors="backslashreplace")
        case None | bool() | int() | float() | str():
            return value
        case _:
            return str(value)
