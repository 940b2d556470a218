"""Whom a scenario means: names of hosts, and words for hosts that are looked up at the time.

Words: `all`, `others` (who was not named before in the same fault), `any`,
`any 2`, `zone west`, `owner of orders`.

Invariant: the same state of the mesh and of the generator give the same hosts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pmq.sim.views import running

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from p2pmq.sim.mesh import Mesh
    from p2pmq.sim.scenario import Nodes


class Selecting:
    """Looks hosts up in a mesh. Hosts that are not started yet, or have left, are never meant."""

    def __init__(self, mesh: Mesh, nodes: Nodes, rng: random.Random) -> None:
        self._mesh = mesh
        self._nodes = nodes
        self._rng = rng
        self.left: dict[str, None] = {}
        """Those that have left for good."""

    @property
    def present(self) -> list[str]:
        """Every host that can be meant."""
        return [name for name in self._mesh.names if name not in self.left]

    def hosts(self, words: Sequence[str], named_before: Sequence[str] = ()) -> list[str]:
        """Who is meant by `words`, each once, in order."""
        found: dict[str, None] = {}
        for word in words:
            found |= dict.fromkeys(self._meant(word, (*named_before, *found)))
        return list(found)

    def groups(self, groups: Sequence[Sequence[str]]) -> list[list[str]]:
        """Who is meant by each of several lists of words; nobody is in two of them."""
        found: list[list[str]] = []
        for words in groups:
            before = [name for group in found for name in group]
            meant = self.hosts(words, before)
            found.append([name for name in meant if name not in before])
        return found

    def _meant(self, word: str, named: Sequence[str]) -> list[str]:
        present = self.present
        kind, _, rest = word.partition(" ")
        if word in self._nodes.all:
            return [word] if word in present else []
        if word == "all":
            return present
        if word == "others":
            return [name for name in present if name not in named]
        if kind == "any":
            free = [name for name in present if self._mesh.is_up(name) and name not in named]
            return self._rng.sample(free, min(len(free), int(rest or 1)))
        if kind == "zone":
            return [name for name in present if self._nodes.zone_of(name) == rest]
        return self._owner(word.removeprefix("owner of "))

    def _owner(self, queue: str) -> list[str]:
        """The owner of a queue, as the first node that runs sees it."""
        hosts = running([self._mesh.host(name) for name in self.present])
        owner = hosts[0].node.owner_of(queue) if hosts else None
        return [owner] if owner in self.present else []


def meant_before_start(words: Sequence[str], nodes: Nodes) -> list[str]:
    """Who is meant by words for hosts that need not be there yet: names, `all`, and zones."""
    found: dict[str, None] = {}
    for word in words:
        if word in nodes.all:
            found[word] = None
        elif word == "all":
            found |= dict.fromkeys(nodes.all)
        elif word.startswith("zone "):
            zone = word.removeprefix("zone ")
            found |= dict.fromkeys(n for n in nodes.all if nodes.zone_of(n) == zone)
    return list(found)
