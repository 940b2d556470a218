"""The same roles over Redis Streams, as fast as redis-py makes them, one process each.

The publisher sends pipelines of XADD and waits for each; the consumer reads
with XREADGROUP, handles, and acks what it read with one XACK. With
`appendfsync always` Redis answers both after its fsync.
"""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any

from p2pmq.bench.bodies import Bodies, Tally
from p2pmq.bench.plan import LATENCY_RATE, PHASE_TIMEOUT_S, BenchmarkError, Mode

if TYPE_CHECKING:
    import redis

    from p2pmq.bench.line import Line

GROUP = "bench"
FIELD = b"b"
BLOCK_MS = 1_000


def run(role: str, options: dict[str, Any], line: Line) -> None:
    """Play "redis-publisher" or "redis-consumer" until told to stop."""
    import redis  # noqa: PLC0415  an optional dependency

    assert role in {"redis-publisher", "redis-consumer"}
    client = redis.Redis(host="127.0.0.1", port=options["port"], protocol=2)
    line.reply()
    with client:
        while (command := line.receive()) is not None:
            match command["do"]:
                case "usage":
                    line.reply()
                case "publish":
                    started_ns = time.monotonic_ns()
                    publish(client, command)
                    line.reply(started_ns=started_ns, ended_ns=time.monotonic_ns())
                case "consume":
                    consume(client, command, line)
                case other:
                    raise BenchmarkError(f"the worker knows no command {other!r}")


def publish(client: redis.Redis, command: dict[str, Any]) -> None:
    """Publish `count` messages of `size` bytes, `batch` in a pipeline."""
    bodies, count, stream = Bodies(command["size"]), command["count"], command["queue"]
    if Mode(command["mode"]) is Mode.LATENCY:
        begin = time.monotonic()
        for number in range(count):
            time.sleep(max(0.0, begin + number / LATENCY_RATE - time.monotonic()))
            client.xadd(stream, {FIELD: bodies.stamped(number)})
        return
    rest = bodies.numbered(count)
    while batch := list(itertools.islice(rest, command["batch"])):
        pipeline = client.pipeline(transaction=False)
        for body in batch:
            pipeline.xadd(stream, {FIELD: body})
        pipeline.execute()


def consume(client: redis.Redis, command: dict[str, Any], line: Line) -> None:
    """Handle and ack `count` messages; reply once when the group is there, once at the end."""
    stream = command["queue"]
    timed = Mode(command["mode"]) is Mode.LATENCY
    tally = Tally(command["count"], skip=command["skip"], timed=timed)
    client.xgroup_create(stream, GROUP, id="0", mkstream=True)
    line.reply()
    deadline = time.monotonic() + PHASE_TIMEOUT_S
    while tally.left:
        if time.monotonic() > deadline:
            raise BenchmarkError(f"{tally.left} messages of {stream} did not come in time")
        found: Any = client.xreadgroup(
            GROUP, "consumer", {stream: ">"}, count=command["batch"], block=BLOCK_MS
        )
        for _, entries in found:
            for _, fields in entries:
                tally.handle(fields[FIELD])
            client.xack(stream, GROUP, *(entry_id for entry_id, _ in entries))
    line.reply(
        settled_ns=time.monotonic_ns(), duplicates=tally.duplicates, **tally.percentiles_us()
    )
    client.delete(stream)
