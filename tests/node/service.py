"""A node in a process of its own: prints its addresses, and runs until stdin ends or it is killed.

python service.py PLAN, with a PLAN like
{"name": "bank", "folder": "/tmp/bank", "seeds": ["127.0.0.1:4000"], "replicas": 3}
"""

import asyncio
import json
import sys

from p2pmq import Config, Node, Replication, SwimConfig, Timing


async def main() -> None:
    plan = json.loads(sys.argv[1])
    node = Node(
        plan["name"],
        mesh="test",
        mdns=False,
        seeds=plan["seeds"],
        data_dir=plan["folder"],
        config=Config(
            swim=SwimConfig(probe_interval_ms=400, probe_timeout_ms=300),
            timing=Timing(join_timeout_ms=200, drain_timeout_ms=500),
            replication=Replication(plan["replicas"]),
        ),
    )
    async with node:
        sys.stdout.write(json.dumps(node.addresses) + "\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)


asyncio.run(main())
