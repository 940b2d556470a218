"""A second process for the tests of mDNS: announces itself, prints what it sights.

Arguments: mesh, address to announce. It ends when its standard input does.
"""

import asyncio
import random
import sys
import uuid

from p2pmq.discovery.base import Announcement, Sighting
from p2pmq.discovery.mdns import MdnsDiscovery


def _print(sighting: Sighting) -> None:
    sys.stdout.write(f"{sighting.address}\n")
    sys.stdout.flush()


async def _run(mesh: str, address: str) -> None:
    peer = MdnsDiscovery(rng=random.Random())
    await peer.start(Announcement(mesh, uuid.uuid4().bytes, "peer", (address,), (1, 1)), _print)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await peer.close()


if __name__ == "__main__":
    asyncio.run(_run(sys.argv[1], sys.argv[2]))
