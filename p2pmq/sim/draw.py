"""The drawing of random scenarios: a mesh, a workload and faults, all from one seed.

Each seed leaves out most kinds of faults and uses the others often: a run with
a little of everything finds less than one with much of something (Groce et al.,
*Swarm testing*, 2012).

Invariant: a seed always draws the same scenario, and nothing else is asked.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

from p2pmq.sim.chaos import KINDS, drawn_faults
from p2pmq.sim.scenario import (
    CONFIRMS,
    OVERFLOWS,
    RESTS,
    Chaos,
    Consumers,
    Declared,
    FaultSpec,
    Links,
    Liveness,
    Nodes,
    Publishers,
    Scenario,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

SIZES = (1, 2, 3, 3, 4, 5, 5, 6, 7)
"""How many nodes, as often as it stands here."""
ZONES = ("east", "west", "south")
QUEUES = ("q1", "q2", "q3")
DURATIONS_MS = (10_000, 20_000, 30_000)
LIVENESS_MS = 10_000
# Shares of the seeds, or of the nodes.
TWO_PHASES = 0.5
PLAIN_LINKS = 0.7
ZONED = 0.3
LEAF = 0.15
HEAVY = 0.1
JOINS = 0.2
LEAVES = 0.15
FAILING = 0.25
MORTAL = 0.15
EMITTING = 0.2
"""Share of publishers that emit to topics bound to queues …"""
ONCE = 0.2
PUBLISHING = 0.2
"""… and of consumers that process once, or publish with their acks."""
GROUPED = 0.5
"""Of those that emit, those that have several groups; with them comes a consumer for each."""
LIMITED = 0.2
"""Share of seeds in which a queue has a limit, of so many messages:"""
ROOMS = (3, 10, 40)
TICKING = 0.1
"""Share of seeds in which a queue without a limit has a schedule."""
RETAINING = 0.1
"""Share of seeds in which a queue without a limit can be replayed."""
RETAIN_MS = 86_400_000
MINUTELY = "* * * * *"
PURGING = 0.1
"""Share of publishers that have a queue purged now and then."""
SPREAD = 0.2
"""Share of publishers whose queues have several partitions."""
MANY_KEYS = 50
DELAYING = 0.2
DELAYS_MS = ((500, 500), (0, 3_000), (0, 20_000))
NAMED = 0.25
REPLICAS = (1, 2, 3, 3, 3, 4)
FEWER_COPIES = 0.2
FEW = 3
"""Messages in one publish that a consumer takes up one by one, too."""
STAY = 2
"""So many full nodes are there from first to last."""


def drawn_scenario(seed: int) -> Scenario:
    """The scenario of a seed."""
    rng = random.Random(f"swarm {seed}")
    replicas, min_copies = _copies(random.Random(f"copies {seed}"))
    nodes = replace(_nodes(rng), replicas=replicas, min_copies=min_copies)
    if (features := random.Random(f"features {seed}")).random() < FAILING:
        nodes = replace(nodes, max_deliveries=features.randint(1, 4))
    duration_ms = rng.choice(DURATIONS_MS)
    queues = QUEUES[: rng.randint(1, len(QUEUES))]
    publishers = tuple(_publishers(rng, nodes.all, queues) for _ in range(rng.randint(1, 3)))
    publishers = tuple(_featured(features, publisher) for publisher in publishers)
    publishers = tuple(_in_many_turns(publisher) for publisher in publishers)
    much = any(one.batch[1] > FEW for one in publishers)
    consumers = tuple(
        _consumers(rng, nodes.all, queues, quick=much) for _ in range(rng.randint(0, 3))
    )
    acking = random.Random(f"acks {seed}")
    publishers = tuple(_emitting(acking, publisher) for publisher in publishers)
    consumers = tuple(_careful(acking, consumer) for consumer in consumers)
    delays, groups = random.Random(f"delays {seed}"), random.Random(f"groups {seed}")
    publishers = tuple(_delaying(delays, publisher) for publisher in publishers)
    publishers = tuple(_grouped(groups, publisher) for publisher in publishers)
    purges = random.Random(f"purges {seed}")
    publishers = tuple(_purging(purges, publisher) for publisher in publishers)
    parts = random.Random(f"partitions {seed}")
    publishers = tuple(_spread(parts, publisher) for publisher in publishers)
    consumers += tuple(_members(groups, one, nodes.all) for one in publishers if one.groups)
    limits = random.Random(f"limits {seed}")
    limited = (_limited(limits, queues),) if limits.random() < LIMITED else ()
    ticking = _ticking(random.Random(f"ticks {seed}"), queues, limited)
    chaos = _chaos(rng)
    faults = drawn_faults(rng, nodes.all, chaos, duration_ms)
    faults += _joins_and_leaves(rng, nodes, duration_ms)
    return Scenario(
        nodes=nodes,
        about=f"drawn from seed {seed}",
        seed=seed,
        duration_ms=duration_ms,
        links=_links(rng),
        declared=limited + ticking + _retaining(seed, queues, limited + ticking),
        publishers=publishers,
        consumers=consumers,
        faults=tuple(sorted(faults, key=lambda fault: fault.at_ms)),
        liveness=_liveness(rng, nodes, chaos) if rng.random() < TWO_PHASES else None,
    )


def _nodes(rng: random.Random) -> Nodes:
    names = tuple(f"n{number}" for number in range(1, rng.choice(SIZES) + 1))
    leaves = tuple(name for name in names[1:] if rng.random() < LEAF)
    full = [name for name in names if name not in leaves]
    zones: tuple[tuple[str, tuple[str, ...]], ...] = ()
    if rng.random() < ZONED:
        zone_of = {name: rng.choice(ZONES) for name in names}
        listed = [(z, tuple(n for n in names if zone_of[n] == z)) for z in ZONES]
        zones = tuple((zone, members) for zone, members in listed if members)
    weights = tuple((name, 2) for name in full if rng.random() < HEAVY)
    late = names[-1:] if len(full) > STAY and rng.random() < JOINS else ()
    return Nodes(names=names, late=late, leaves=leaves, zones=zones, weights=weights)


def _copies(rng: random.Random) -> tuple[int, int]:
    """How many copies there are, and how many commit; most often as it is by default."""
    replicas = rng.choice(REPLICAS)
    return replicas, rng.randint(1, replicas) if rng.random() < FEWER_COPIES else 0


def _links(rng: random.Random) -> tuple[Links, ...]:
    if rng.random() < PLAIN_LINKS:
        return ()
    return (Links(latency_ms=(1, rng.choice((5, 60))), loss=rng.choice((0.0, 0.01))),)


def _publishers(rng: random.Random, names: Sequence[str], queues: Sequence[str]) -> Publishers:
    return Publishers(
        on=_some(rng, names),
        queues=_some(rng, queues),
        every_ms=rng.choice(((100, 300), (300, 1_000), (1_000, 3_000))),
        batch=rng.choice(((1, 1), (1, 1), (1, 3), (5, 50))),
        size_bytes=rng.choice(((10, 10), (0, 200), (1, 20_000))),
        priority=rng.choice(((0, 0), (0, 0), (0, 0), (0, 9))),
        keys=rng.choice((0, 0, 0, 5)),
        confirm=_some(rng, CONFIRMS),
        timeout_ms=rng.choice((None, None, 500, 30_000)),
    )


def _featured(rng: random.Random, publishers: Publishers) -> Publishers:
    """Some ask for more than that their messages are kept and delivered."""
    return replace(
        publishers,
        ttl_ms=rng.choice((500, 5_000, 60_000)) if rng.random() < MORTAL else None,
        ids=rng.choice((0.2, 1.0)) if rng.random() < NAMED else 0.0,
    )


def _in_many_turns(publishers: Publishers) -> Publishers:
    """Those that publish much have many keys: a key's turns take a way to its consumer each."""
    has_turns = publishers.keys and publishers.batch[1] > FEW
    return replace(publishers, keys=MANY_KEYS) if has_turns else publishers


def _spread(rng: random.Random, publishers: Publishers) -> Publishers:
    """Some have their queues spread over partitions."""
    partitions = rng.choice((2, 4)) if rng.random() < SPREAD else 1
    return replace(publishers, partitions=partitions)


def _emitting(rng: random.Random, publishers: Publishers) -> Publishers:
    """Some emit to topics that are bound to queues."""
    return replace(publishers, emits=0.5 if rng.random() < EMITTING else 0.0)


def _limited(rng: random.Random, queues: Sequence[str]) -> Declared:
    """One of the queues holds only so many messages."""
    limit, overflow = rng.choice(ROOMS), rng.choice(OVERFLOWS)
    return Declared(queues=(rng.choice(queues),), max_messages=limit, overflow=overflow)


def _ticking(
    rng: random.Random, queues: Sequence[str], limited: Sequence[Declared]
) -> tuple[Declared, ...]:
    """Now and then a queue has a schedule."""
    free = [queue for queue in queues if not any(queue in one.queues for one in limited)]
    if rng.random() >= TICKING or not free:
        return ()
    return (Declared(queues=(rng.choice(free),), schedule=MINUTELY),)


def _retaining(
    seed: int, queues: Sequence[str], others: Sequence[Declared]
) -> tuple[Declared, ...]:
    """Now and then a queue can be replayed."""
    rng = random.Random(f"retain {seed}")
    free = [queue for queue in queues if not any(queue in one.queues for one in others)]
    if rng.random() >= RETAINING or not free:
        return ()
    return (Declared(queues=(rng.choice(free),), retain_ms=RETAIN_MS),)


def _delaying(rng: random.Random, publishers: Publishers) -> Publishers:
    """Some messages rest before they go."""
    return replace(
        publishers, delay_ms=rng.choice(DELAYS_MS) if rng.random() < DELAYING else (0, 0)
    )


def _purging(rng: random.Random, publishers: Publishers) -> Publishers:
    """Some have a queue purged now and then."""
    return replace(publishers, purges=0.05 if rng.random() < PURGING else 0.0)


def _grouped(rng: random.Random, publishers: Publishers) -> Publishers:
    """Of those that emit, some have a group of consumers behind each of their queues."""
    is_grouped = publishers.emits > 0 and len(publishers.queues) > 1 and rng.random() < GROUPED
    return replace(publishers, groups=is_grouped)


def _members(rng: random.Random, publishers: Publishers, names: Sequence[str]) -> Consumers:
    """Consumers of every group of a publisher."""
    return Consumers(on=_some(rng, names), queues=publishers.queues)


def _careful(rng: random.Random, consumers: Consumers) -> Consumers:
    """Some process each message once, and some publish with their acks."""
    once, outputs = rng.random() < ONCE, rng.random() < PUBLISHING
    return replace(consumers, once=once, outputs=0.5 if outputs else 0.0)


def _consumers(
    rng: random.Random, names: Sequence[str], queues: Sequence[str], *, quick: bool
) -> Consumers:
    """`quick`: there is so much to do that others would not be through in the time to settle."""
    return Consumers(
        on=_some(rng, names),
        queues=_some(rng, queues),
        prefetch=rng.choice((10, 100, 1_000) if quick else (1, 10, 100, 1_000)),
        handler_ms=rng.choice(((0, 0), (0, 0), (0, 20), (0, 20) if quick else (50, 300))),
        visibility_ms=rng.choice((None, 3_000, 10_000)),
        nack=rng.choice((0.0, 0.0, 0.05, 0.3)),
        nack_delay_ms=rng.choice(((0, 0), (0, 3_000))),
        late=rng.choice((0.0, 0.0, 0.02)),
        resubscribe=rng.choice((None, None, 5, 100)),
    )


def _chaos(rng: random.Random) -> Chaos:
    kinds = tuple(dict.fromkeys(KINDS))
    return Chaos(
        what=tuple(rng.sample(kinds, rng.randint(1, 6))),
        every_ms=rng.choice(((100, 2_000), (500, 4_000), (2_000, 8_000))),
    )


def _joins_and_leaves(rng: random.Random, nodes: Nodes, duration_ms: int) -> list[FaultSpec]:
    found = [FaultSpec(rng.randint(0, duration_ms), "join", hosts=(name,)) for name in nodes.late]
    full = [name for name in nodes.first if name not in nodes.leaves]
    if len(full) > STAY and rng.random() < LEAVES:
        leaver = (rng.choice(full),)
        found.append(FaultSpec(rng.randint(0, duration_ms), "leave", hosts=leaver))
    return found


def _liveness(rng: random.Random, nodes: Nodes, chaos: Chaos) -> Liveness | None:
    core = _some(rng, nodes.all)
    if set(core) <= set(nodes.leaves):
        core = nodes.all[:1]  # it is never a leaf
    faults = drawn_faults(rng, nodes.all, chaos, LIVENESS_MS)
    return Liveness(core, LIVENESS_MS, rng.choice(RESTS), tuple(faults))


def _some(rng: random.Random, names: Sequence[str]) -> tuple[str, ...]:
    """Some of the names, one at least, in their order."""
    chosen = rng.sample(list(names), rng.randint(1, len(names)))
    return tuple(name for name in names if name in chosen)
