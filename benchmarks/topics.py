# ruff: noqa: INP001, T201 - a script to be run, no package, which prints its table
"""Measure topic matching: python benchmarks/topics.py [patterns].

Prints the table of docs/topics.md, "What it costs", as Markdown: how many topics a second are
matched against so many patterns (10,000 unless said otherwise), for topics that many patterns
match, few, and none. It counts the CPU time of one core, the best of five rounds.
"""

from __future__ import annotations

import random
import sys
import time

from p2pmq.core.topics import Trie

PATTERNS = 10_000
TOPICS = 20_000
ROUNDS = 5
SITES = 2_000
OF_ALL_SITES = 0.002
"""So many patterns have a wildcard in place of the site …"""
WITH_A_RACK = 0.9
"""… and so many name a rack, or all racks."""
KINDS = ("temp", "door", "power", "fan", "alarm")


def patterns(count: int, rng: random.Random) -> list[str]:
    """Distinct patterns as a fleet of sites would have them: most of one site, some of all."""
    found: dict[str, None] = {}
    while len(found) < count:
        site = "*" if rng.random() < OF_ALL_SITES else str(rng.randrange(SITES))
        kind = rng.choice((*KINDS, "*", ">"))
        rack = rng.choice((str(rng.randrange(40)), "*"))
        where = f"{site}.{rack}" if rng.random() < WITH_A_RACK else site
        found[f"site.{where}.{kind}"] = None
    return list(found)


def measured(trie: Trie[int], topics: list[str]) -> tuple[float, float]:
    """Matches a second, and values found a topic."""
    best = float("inf")
    found = 0
    for _ in range(ROUNDS):
        began = time.process_time()
        found = sum(len(trie.match(topic)) for topic in topics)
        best = min(best, time.process_time() - began)
    return len(topics) / best, found / len(topics)


def main() -> None:
    """Build the trie, and print a row for each kind of topic."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else PATTERNS
    rng = random.Random(1)
    trie: Trie[int] = Trie()
    for value, pattern in enumerate(patterns(count, rng)):
        trie.insert(pattern, value)
    print(f"| topics, against {len(trie):,} patterns | values found each | matches a second |")
    print("| --- | ---: | ---: |")
    rows = {
        "of a site that has patterns": [
            f"site.{rng.randrange(SITES)}.{rng.randrange(40)}.{rng.choice(KINDS)}"
            for _ in range(TOPICS)
        ],
        "of a site that nobody named": [
            f"site.x{rng.randrange(SITES)}.{rng.randrange(40)}.{rng.choice(KINDS)}"
            for _ in range(TOPICS)
        ],
        "that nothing matches": [f"shop.{rng.randrange(SITES)}.order" for _ in range(TOPICS)],
    }
    for what, topics in rows.items():
        speed, found = measured(trie, topics)
        print(f"| {what} | {found:.1f} | {speed:,.0f} |")


if __name__ == "__main__":
    main()
