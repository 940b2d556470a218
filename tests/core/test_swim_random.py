"""Random histories of a small mesh: whatever happens, it agrees when the faults have gone."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from p2pmq.config import SwimConfig
from tests.core.swim_mesh import SwimMesh, node_id_of

SIZE = 6
numbers = st.integers(0, SIZE - 1)


class SwimMachine(RuleBasedStateMachine):
    """The invariants of single nodes are checked by the mesh itself, after each event."""

    mesh: SwimMesh

    @initialize(seed=st.integers(0, 2**16), tombstone_ms=st.sampled_from([20_000, 86_400_000]))
    def begin(self, seed: int, tombstone_ms: int) -> None:
        self.mesh = SwimMesh(seed, SwimConfig(tombstone_ms=tombstone_ms))
        self.mesh.add_many(SIZE)
        self.mesh.run(5_000)
        self.left: list[int] = []

    @rule(duration_ms=st.sampled_from([50, 700, 5_000, 40_000]))
    def time_passes(self, duration_ms: int) -> None:
        self.mesh.run(duration_ms)

    @rule(number=numbers)
    def crash_or_restart(self, number: int) -> None:
        if number in self.left:
            return
        if self.mesh.nodes[number].up:
            self.mesh.crash(number)
        else:
            self.mesh.restart(number)

    @rule(number=numbers, duration_ms=st.sampled_from([300, 3_000, 60_000]))
    def pause(self, number: int, duration_ms: int) -> None:
        self.mesh.pause(number, duration_ms)

    @rule(group=st.lists(numbers, unique=True, min_size=1, max_size=SIZE - 1))
    def split(self, group: list[int]) -> None:
        self.mesh.split(group, [number for number in range(SIZE) if number not in group])

    @rule()
    def heal(self) -> None:
        self.mesh.heal()

    @rule(loss=st.sampled_from([0.0, 0.1, 0.4]), delay_ms=st.sampled_from([5, 150, 900]))
    def weather(self, loss: float, delay_ms: int) -> None:
        self.mesh.loss = loss
        self.mesh.delay_ms = (1, delay_ms)

    @precondition(lambda self: len(self.left) < 2)
    @rule(number=numbers)
    def leave(self, number: int) -> None:
        node = self.mesh.nodes[number]
        if node.up and number not in self.left and node.paused_until <= self.mesh.now:
            self.left.append(number)
            self.mesh.leave(number)

    @rule(by=numbers, number=numbers)
    def forget(self, by: int, number: int) -> None:
        node = self.mesh.nodes[by]
        if node.up and by not in self.left and node.paused_until <= self.mesh.now:
            self.mesh.forget(by, number)

    @invariant()
    def counters_agree_with_the_states(self) -> None:
        if not hasattr(self, "mesh"):
            return
        for node in self.mesh.nodes.values():
            roster = node.swim._roster
            members = roster.members.values()
            assert roster.alive_count == sum(member.alive for member in members)
            assert roster.lost_count == len(list(roster.lost()))
            suspects = [m for m in members if m.suspicion is not None]
            assert all(member.alive for member in suspects)
            assert not set(roster.members) & set(roster.tombstones)

    def teardown(self) -> None:
        """All faults end: those that remain agree within two minutes."""
        if not hasattr(self, "mesh"):
            return
        mesh = self.mesh
        mesh.heal()
        mesh.loss, mesh.delay_ms = 0.0, (1, 5)
        for number, node in mesh.nodes.items():
            node.paused_until = min(node.paused_until, mesh.now)
            if not node.up and number not in self.left:
                mesh.restart(number)
        assert mesh.run_until(mesh.agreed, 120_000) is not None, [
            (number, mesh.view(number)) for number in mesh.up()
        ]
        mesh.run(60_000)
        assert mesh.agreed()
        gone = [node_id_of(number) for number in self.left]
        for number in mesh.up():
            assert not any(mesh.nodes[number].swim.is_alive(node_id) for node_id in gone)


TestSwimMachine = SwimMachine.TestCase
TestSwimMachine.settings = settings(max_examples=100, stateful_step_count=30)
