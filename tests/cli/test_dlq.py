"""`p2pmq dlq` beside a real mesh: what is dead, why, and back again."""

import asyncio
import json
from typing import Any

from typer.testing import CliRunner

from p2pmq import Node
from p2pmq.cli.app import app
from tests.cli.kit import Mesh, run

COUNT = 5


def bury(mesh: Mesh, queue: str) -> None:
    """Publish messages, and reject all of them."""

    async def bury_all() -> None:
        config = {"mesh": mesh.name, "mdns": False, "store": "memory", "leaf": True}
        async with Node(f"bury-{queue}", seeds=mesh.addresses, **config) as node:  # type: ignore[arg-type]  # as its parameters
            await node.publish_many(queue, [f"{number}\x1b[31m\n" for number in range(COUNT)])
            left = COUNT
            async for message in node.consume(queue):
                message.reject("no\tsuch article")
                left -= 1
                if not left:
                    break
            async for message in node.consume(f"{queue}.dlq"):
                message.nack(0)
                left += 1
                if left == COUNT:
                    break

    asyncio.run(bury_all())


def rows(*args: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run(*args).stdout.splitlines()]


def test_dead_letters_are_listed_shown_and_redriven(mesh: Mesh) -> None:
    bury(mesh, "dead")
    listed = {row["queue"]: row for row in rows("dlq", "list", "--json", *mesh.options)}
    assert listed["dead.dlq"]["source"] == "dead"
    assert listed["dead.dlq"]["letters"] == COUNT
    for _ in range(2):  # they stay
        shown = rows("dlq", "show", "dead", "--limit", "3", "--json", *mesh.options)
        assert [row["body"] for row in shown] == [f"{number}\x1b[31m\n" for number in range(3)]
        assert {(row["reason"], row["failures"], row["source"]) for row in shown} == {
            ("rejected", 1, "dead")
        }
    table = run("dlq", "show", "dead.dlq", *mesh.options)
    assert table.stdout.startswith(b"ID ")
    assert b"no such article" in table.stdout
    assert b"\x1b" not in table.stdout
    told = run("dlq", "redrive", "dead", "--rate", "100/s", "--limit", "4", *mesh.options)
    assert told.returncode == 0
    assert b"4 dead letters of dead.dlq are in dead again, 1 are left\n" in told.stderr
    (report,) = rows("dlq", "redrive", "dead.dlq", "--json", *mesh.options)
    assert report == {"queue": "dead.dlq", "source": "dead", "redriven": 1, "left": 0}
    again = run("sub", "dead", "--count", str(COUNT), *mesh.options).stdout
    assert len(again.splitlines()) == COUNT


def test_a_rate_that_is_none_is_wrong_usage(mesh: Mesh) -> None:
    for rate in ("fast", "0/s", "-1", "inf"):
        result = CliRunner().invoke(app, ["dlq", "redrive", "x", "--rate", rate, *mesh.options])
        assert result.exit_code == 2
        assert "is no rate" in result.output


def test_a_queue_without_dead_letters_is_said_to_have_none(mesh: Mesh) -> None:
    shown = run("dlq", "show", "nothing-here", *mesh.options)
    assert (shown.returncode, shown.stdout) == (0, b"")
    assert b"nothing-here.dlq: no dead letters that nobody holds\n" in shown.stderr
