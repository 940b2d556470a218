"""`p2pmq pub` and `p2pmq send`: the lines of stdin or of a file, each a message.

A block of lines is handed to the node whole, without a wait in between, so
that it is always known which lines the outbox has. Blocks are pipelined and
confirmed in order. While the queue's owner is away the outbox holds what was
read, no more is read, and the command waits: its dots make repeats harmless,
and it must not end while lines exist only in its memory.

Invariant: every line read is in exactly one block, and every block is handed
over exactly once, in order.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2pmq.cli.lines import LineSplitter, read_block
from p2pmq.cli.offloop import OffLoop
from p2pmq.cli.output import Meter, metered, put_json, rate, say, with_rate
from p2pmq.cli.session import EXIT_INTERRUPTED, visiting
from p2pmq.errors import BodyTooLargeError, NotCommittedError, OutboxFullError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from p2pmq.cli.options import MeshOptions, PostOptions, VisitOptions
    from p2pmq.cli.places import Place
    from p2pmq.node.node import Node
    from p2pmq.node.receipts import BulkReceipt

STDIN = 0
IN_FLIGHT_BYTES_MAX = 8 * 1024 * 1024
IN_FLIGHT_BLOCKS_MAX = 64
STALL_S = 3.0
"""No block confirmed for so long: the person is told what it waits for."""
LAST_CONFIRMS_S = 2.0
"""How long confirms that are on their way are waited for when the command is interrupted."""


@dataclass(slots=True)
class Block:
    """Lines that were handed over, and the confirm that is waited for."""

    task: asyncio.Task[BulkReceipt]
    lines: int
    size: int


async def publish_lines(
    place: Place,
    bodies: Sequence[str] | None,
    mesh: MeshOptions,
    visit: VisitOptions,
    post: PostOptions,
    *,
    as_json: bool,
) -> int:
    """Publish the bodies, or else every line; the exit code tells whether all were confirmed."""
    with _opened(bodies, post.file) as (descriptor, size):
        async with visiting(mesh, visit, "pub", data_dir=post.data_dir) as node:
            with metered(f"publishing to {place.queue}", size) as meter:
                publishing = Publishing(node, place, post, meter, counts_bytes=size is not None)
                code = await publishing.run(descriptor, bodies)
            if code:
                await node.close(0.0)
    publishing.report(as_json=as_json)
    return code


@contextmanager
def _opened(bodies: Sequence[str] | None, file: Path | None) -> Iterator[tuple[int, int | None]]:
    """The descriptor to read from, and the bytes that it will give if that is known."""
    if bodies or file is None:
        yield STDIN, None
        return
    descriptor = os.open(file, os.O_RDONLY)
    try:
        yield descriptor, os.fstat(descriptor).st_size or None
    finally:
        os.close(descriptor)


class Publishing:
    """One run of `pub`: what was read, what is on its way, what is confirmed."""

    def __init__(
        self, node: Node, place: Place, post: PostOptions, meter: Meter, *, counts_bytes: bool
    ) -> None:
        self._node = node
        self._place = place
        self._queue = place.queue
        self._post = post
        self._confirm = post.confirm
        self._meter = meter
        self._counts_bytes = counts_bytes
        self._blocks_max = 1 if post.confirm == "none" else IN_FLIGHT_BLOCKS_MAX
        self._loop = asyncio.get_running_loop()
        self._splitter = LineSplitter(node.settings.config.limits.body_bytes_max)
        self._blocks: deque[Block] = deque()
        self._bytes_in_flight = 0
        self._bytes_confirmed = 0
        self._ended = False
        self._stalled = False
        self._began = self._loop.time()
        self.published = 0
        self.confirmed = 0

    async def run(self, descriptor: int, bodies: Sequence[str] | None = None) -> int:
        """Publish the bodies, or read to the end, and wait for the confirms; the exit code."""
        if bodies:
            self._ended = True
            self._hand_over([os.fsencode(body) for body in bodies])
        try:
            await self._pump(descriptor)
            if self._confirm == "none" and not await self._node.flush(self._post.timeout):
                say("p2pmq: time is up before all lines had left this process: the rest is lost")
                return 1
        except asyncio.CancelledError:
            return await self._give_up(EXIT_INTERRUPTED)
        except (NotCommittedError, OutboxFullError, BodyTooLargeError) as error:
            say(f"p2pmq: {error}")
            return await self._give_up(1)
        return 0

    def report(self, *, as_json: bool) -> None:
        """Say what became of the lines: on stderr, as JSON on stdout."""
        seconds = self._loop.time() - self._began
        if as_json:
            put_json(
                {
                    "queue": self._queue,
                    "published": self.published,
                    self._confirmed_word: self.confirmed,
                    "seconds": round(seconds, 3),
                    "messages_per_s": rate(self.confirmed, seconds),
                }
            )
            return
        took = f"{self.published:,} published, {self.confirmed:,} {self._confirmed_word}"
        say(with_rate(took, self.confirmed, seconds))

    @property
    def _confirmed_word(self) -> str:
        return "sent" if self._confirm == "none" else self._confirm

    # -- reading and handing over -----------------------------------------------------------------

    async def _pump(self, descriptor: int) -> None:
        reader = OffLoop()
        reading: asyncio.Task[bytes] | None = None
        try:
            while not self._ended or self._blocks:
                if reading is None and not self._ended and self._has_room():
                    reading = asyncio.create_task(reader.call(lambda: read_block(descriptor)))
                waited = {reading} if reading is not None else set()
                await self._wait_for_something(waited)
                self._take_confirms()
                if reading is not None and reading.done():
                    self._hand_over(self._split(reading.result()))
                    reading = None
        finally:
            if reading is not None:
                reading.cancel()

    def _has_room(self) -> bool:
        return self._bytes_in_flight < IN_FLIGHT_BYTES_MAX and len(self._blocks) < self._blocks_max

    def _split(self, data: bytes) -> list[bytes]:
        """The lines that end in what was read; at the end, nothing, the last one."""
        self._ended = not data
        return self._splitter.feed(data) if data else self._splitter.end()

    def _hand_over(self, lines: list[bytes]) -> None:
        """Give lines to the outbox; nothing is awaited before all of them are there."""
        if not lines:
            return
        size = sum(map(len, lines)) + len(lines)
        publish = self._place.publish(self._node, lines, self._post)
        self._blocks.append(Block(asyncio.create_task(publish), len(lines), size))
        self._bytes_in_flight += size
        self.published += len(lines)

    # -- waiting for confirms ---------------------------------------------------------------------

    async def _wait_for_something(self, waited: set[asyncio.Task[bytes]]) -> None:
        tasks: set[asyncio.Task[bytes] | asyncio.Task[BulkReceipt]] = {*waited}
        timeout_s = None
        if self._blocks:
            tasks.add(self._blocks[0].task)
            timeout_s = STALL_S
        done, _ = await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if not done and not self._stalled:
            self._stalled = True
            say(f"p2pmq: waiting: {self._what_is_missing()}")

    def _what_is_missing(self) -> str:
        owner = self._node.owner_of(self._queue)
        lines = sum(block.lines for block in self._blocks)
        why = f"{owner} does not confirm" if owner else f"the owner of {self._queue!r} is away"
        return (
            f"{why}; {lines:,} lines wait here and are sent when that changes "
            "(Ctrl-C gives them up)"
        )

    def _take_confirms(self) -> None:
        """Count the blocks that are confirmed, in order; the first failure is raised."""
        while self._blocks and self._blocks[0].task.done():
            self._blocks[0].task.result()
            block = self._blocks.popleft()
            self._bytes_in_flight -= block.size
            self._bytes_confirmed += block.size
            self.confirmed += block.lines
            if self._stalled:
                self._stalled = False
                say("p2pmq: going on")
            self._meter.show(self._bytes_confirmed if self._counts_bytes else self.confirmed)

    async def _confirm_all(self) -> None:
        while self._blocks:
            await self._wait_for_something(set())
            self._take_confirms()

    async def _give_up(self, code: int) -> int:
        """Take the confirms that still come, and say where to go on."""
        with suppress(TimeoutError, NotCommittedError, OutboxFullError):
            async with asyncio.timeout(LAST_CONFIRMS_S):
                await self._confirm_all()
        for block in self._blocks:
            block.task.cancel()
        unsure = self.published - self.confirmed
        text = f"p2pmq: the first {self.confirmed:,} lines are {self._confirmed_word}"
        if unsure:
            text += (
                f"; {unsure:,} more were read, and of these it is not known: publish again from "
                f"line {self.confirmed + 1:,} on, and those that did arrive come twice"
            )
        say(text)
        return code
