"""`p2pmq demo`: three services, one queue, a kill -9 for good, and a count of what was lost.

"shop" publishes the lines of a real file, "bank" and "depot" process them. One
of these two owns the queue; under way it is killed and never runs again, nor is
its disk read: the others have copies, and one of them takes the queue over.
What the dead one had taken and not acked comes again: these are the duplicates.
Nothing may be lost.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from p2pmq.cli.demo_process import Service
from p2pmq.cli.demo_service import ServicePlan
from p2pmq.cli.demo_tally import Books, Tally, numbered
from p2pmq.cli.demo_text import demo_lines
from p2pmq.cli.output import put_json, say
from p2pmq.errors import RequestTimeoutError, UsageError

SERVICES = ("shop", "bank", "depot")
MDNS_PATIENCE_S = 6.0
SEED_PATIENCE_S = 15.0
MESSAGES_PER_S = 3_000
PUBLISH_S = (2.0, 6.0)
"""The pace: so many messages a second, but at least and at most so many seconds for all."""
KILL_AT = 0.4
"""The part of all lines that has been processed when the owner is killed."""
LOOK_INTERVAL_S = 0.1
SAY_INTERVAL_S = 1.0
QUIET_S = 1.0
"""No new entry for so long: no duplicate is under way any more."""
GIVE_UP_S = 20.0
"""No new entry for so long while lines are missing: they do not come."""


class View:
    """What is seen while it runs: bars on a terminal, lines elsewhere."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._bars = (
            [progress.add_task(what, total=total) for what in ("published", "processed")]
            if progress
            else []
        )
        self._said = (0.0, 0, 0)

    def tell(self, text: str) -> None:
        """Something has happened."""
        say(text)

    def show(self, published: int, processed: int, now: float) -> None:
        """How far it is."""
        if self._progress is not None:
            for bar, done in zip(self._bars, (published, processed), strict=True):
                self._progress.update(bar, completed=done)
        elif now - self._said[0] >= SAY_INTERVAL_S and self._said[1:] != (published, processed):
            self._said = (now, published, processed)
            say(f"  {published:,} published, {processed:,} processed")


@dataclass(frozen=True, slots=True)
class Owners:
    """Who owned the queue and was killed, and who owned it then; None: nobody did."""

    killed: str
    successor: str | None


class Demo:
    """One run of the demo."""

    def __init__(
        self, file: Path | None, messages: int, *, mdns: bool, as_json: bool, debug: bool
    ) -> None:
        self._file = file
        self._wanted = messages
        self._mdns = mdns
        self._as_json = as_json
        self._debug = debug
        self._services: dict[str, Service] = {}
        self._mesh = f"demo-{secrets.token_hex(4)}"

    async def play(self) -> int:
        """The whole story; the exit code is 1 if a line was lost."""
        lines, source = demo_lines(self._file, self._wanted)
        if not lines:
            raise UsageError(f"{source} has no lines: name a text file that has some with --file")
        async with AsyncExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="p2pmq-demo-"))
            stack.push_async_callback(self._stop_all)
            view = stack.enter_context(_viewed(len(lines)))
            view.tell(f"{len(lines):,} lines of {source}")
            tally, owners = await self._run(Path(folder), lines, view)
        self._report(tally, owners, len(lines))
        return 0 if tally.is_good else 1

    async def _run(self, folder: Path, lines: list[bytes], view: View) -> tuple[Tally, Owners]:
        messages = [numbered(number, line) for number, line in enumerate(lines, 1)]
        file = folder / "messages"
        file.write_bytes(b"\n".join(messages))
        queue, owner = await self._meet(folder, view)
        view.tell(f"the queue {queue!r} is owned by {owner}; all three keep a copy of it")
        view.tell("shop publishes to it, bank and depot consume it")
        shop, *consumers = (self._services[name] for name in SERVICES)
        self._books = Books(messages, shop.ledger, [service.ledger for service in consumers])
        for service in consumers:
            service.tell({"do": "consume", "queue": queue})
        seconds = min(max(len(lines) / MESSAGES_PER_S, PUBLISH_S[0]), PUBLISH_S[1])
        shop.tell({"do": "publish", "queue": queue, "file": str(file), "seconds": seconds})
        await self._until_done(0, int(len(lines) * KILL_AT), view)
        owners = await self._kill_for_good(owner, view)
        await self._until_done(len(lines), len(lines), view)
        await self._until_quiet(view)
        return self._books.tally(), owners

    # -- the mesh ---------------------------------------------------------------------------------

    async def _meet(self, folder: Path, view: View) -> tuple[str, str]:
        """Start the services; the queue's name and its owner once all three know each other."""
        if self._mdns:
            met = await self._try_to_meet(folder / "mdns", MDNS_PATIENCE_S, view)
            if met is not None:
                return met
            view.tell("no multicast here: they did not meet by mDNS, so they get a seed")
            await self._stop_all()
            self._mdns = False
        met = await self._try_to_meet(folder / "seeds", SEED_PATIENCE_S, view)
        if met is None:
            raise RequestTimeoutError(
                f"the services did not meet within {SEED_PATIENCE_S:g} s, though they had a seed "
                "on the loopback interface: run the demo with --debug to see why"
            )
        return met

    async def _try_to_meet(
        self, folder: Path, patience_s: float, view: View
    ) -> tuple[str, str] | None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(patience_s):
                await self._start_all(folder, view)
                met = [await service.heard("met") for service in self._services.values()]
        except TimeoutError:
            return None
        way = "by mDNS" if self._mdns else "by a seed"
        view.tell(f"they found each other {way}, {loop.time() - began:.1f} s after the start")
        return met[0]["queue"], met[0]["owner"]

    async def _start_all(self, folder: Path, view: View) -> None:
        """Start the services at once; without mDNS, the first one before the others."""
        os.mkdir(folder)  # noqa: PTH102  no work for another thread
        names = list(SERVICES)
        seeds: tuple[str, ...] = ()
        if not self._mdns:
            seeds = (await self._start(names.pop(0), folder, (), view),)
        await asyncio.gather(*(self._start(name, folder, seeds, view) for name in names))

    async def _start(self, name: str, folder: Path, seeds: tuple[str, ...], view: View) -> str:
        plan = ServicePlan(
            name=name,
            mesh=self._mesh,
            folder=str(folder),
            services=SERVICES,
            seeds=seeds,
            mdns=self._mdns,
            debug=self._debug,
        )
        service = self._services[name] = Service(plan)
        address = await service.start()
        view.tell(f"{name} runs as process {service.pid}, listening on {address}")
        return address

    async def _kill_for_good(self, owner: str, view: View) -> Owners:
        """Kill the owner, and wait until the publisher sees another one."""
        loop = asyncio.get_running_loop()
        await self._services[owner].kill()
        killed_at = loop.time()
        view.tell(f"{owner}, the owner, is killed with -9, and will not run again")
        hearing = asyncio.create_task(self._services[SERVICES[0]].heard("owner"))
        try:
            while not hearing.done() and loop.time() - killed_at < GIVE_UP_S:
                await self._watch(view, LOOK_INTERVAL_S)
            if not hearing.done():
                view.tell(f"nobody took the queue over within {GIVE_UP_S:g} s")
                return Owners(owner, None)
            successor: str = hearing.result()["owner"]
        finally:
            hearing.cancel()
        took_s = loop.time() - killed_at
        view.tell(f"{successor} found out and took the queue over, {took_s:.1f} s after the kill")
        return Owners(owner, successor)

    async def _stop_all(self) -> None:
        services = list(self._services.values())
        self._services = {}
        await asyncio.gather(*(service.stop() for service in services))

    # -- counting ---------------------------------------------------------------------------------

    async def _watch(self, view: View, seconds: float) -> None:
        """Show for so long how far it is."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while loop.time() < until:
            published, processed, _ = self._books.look()
            view.show(published, processed, loop.time())
            await asyncio.sleep(LOOK_INTERVAL_S)

    async def _until_done(self, published: int, processed: int, view: View) -> None:
        """Wait until so many lines are published and processed, or until nothing goes on."""
        loop = asyncio.get_running_loop()
        counts, since = self._books.look(), loop.time()
        while counts[0] < published or counts[1] < processed:
            await self._watch(view, LOOK_INTERVAL_S)
            found = self._books.look()
            if found != counts:
                counts, since = found, loop.time()
            elif loop.time() - since >= GIVE_UP_S:
                return

    async def _until_quiet(self, view: View) -> None:
        """Wait until no duplicate is under way any more."""
        counts = None
        while counts != self._books.look():
            counts = self._books.look()
            await self._watch(view, QUIET_S)

    # -- the result -------------------------------------------------------------------------------

    def _report(self, tally: Tally, owners: Owners, lines: int) -> None:
        if self._as_json:
            found = asdict(tally) | {"lines": lines} | asdict(owners)
            put_json(found | {"discovery": "mdns" if self._mdns else "seeds"})
            return
        table = Table(header_style="bold")
        for heading in ("published", "processed", "lost", "duplicated"):
            table.add_column(heading, justify="right")
        style = "bold red" if tally.lost else "bold green"
        table.add_row(
            f"{tally.published:,}",
            f"{tally.processed:,}",
            f"[{style}]{tally.lost:,}[/]",
            f"{tally.duplicated:,}",
        )
        Console(file=sys.stdout).print(table)
        if tally.unconfirmed:
            say(f"{tally.unconfirmed:,} lines were not confirmed to shop before the demo gave up")
        if tally.damaged:
            say(f"{tally.damaged:,} messages were processed that are none of the lines")
        if tally.duplicated:
            say(
                f"duplicated: lines that were processed and whose acks the kill of {owners.killed} "
                "cut off: at least once means that they come again."
            )


@contextmanager
def _viewed(total: int) -> Iterator[View]:
    if not sys.stderr.isatty():
        yield View(None, total)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=False) as progress:
        yield View(progress, total)
