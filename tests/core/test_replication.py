"""Copies of one partition, as histories: homes that crash, err, split and lose packets.

`copies_world` has the homes, the user and what is checked after each step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.core.copies_world import World
from tests.core.kit import S1, S2

if TYPE_CHECKING:
    from p2pmq.core.ids import NodeId

sessions = st.sampled_from([S1, S2])
picks = st.integers(0, 99)
few = st.integers(1, 4)
nodes = st.integers(0, 4)


class CopiesMachine(RuleBasedStateMachine):
    """Three homes, of which two commit; packets are lost, repeated and overtaken."""

    homes = 3
    orderly = False

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.homes, orderly=self.orderly)

    def node(self, number: int) -> NodeId:
        return self.world.ids[number % self.homes]

    def owner(self, number: int) -> NodeId:
        """One that takes itself for the owner."""
        world = self.world
        owners = [node_id for node_id in world.ids if world.homes[node_id].owns]
        return owners[number % len(owners)] if owners else self.node(number)

    @rule(number=nodes, skew=st.sampled_from([-288_000, 288_000]))
    def clock_is_wrong(self, number: int, skew: int) -> None:
        home = self.world.homes[self.node(number)]
        home.skew_ms = home.owner.clock.wall_offset_ms = skew

    @rule(session=sessions, count=few, number=nodes)
    def publish(self, session: bytes, count: int, number: int) -> None:
        self.world.publish(session, count, self.owner(number))

    @rule(session=sessions, number=nodes)
    def publish_again(self, session: bytes, number: int) -> None:
        self.world.publish_again(session, self.owner(number))

    @rule(number=nodes)
    def attach(self, number: int) -> None:
        self.world.attach(self.owner(number))

    @rule(number=nodes, pick=picks, count=few)
    def ack(self, number: int, pick: int, count: int) -> None:
        self.world.ack(self.owner(number), pick, count)

    @rule(number=nodes)
    def settle_again(self, number: int) -> None:
        self.world.settle_again(self.owner(number))

    @rule(number=nodes)
    def disk_writes(self, number: int) -> None:
        self.world.write(self.node(number))

    @rule()
    def all_disks_write(self) -> None:
        for node_id in self.world.ids:
            while self.world.homes[node_id].writes:
                self.world.write(node_id)

    @rule(number=nodes)
    def disk_is_full(self, number: int) -> None:
        self.world.refuse(self.node(number))

    @rule(number=nodes, pick=picks)
    def disk_is_damaged(self, number: int, pick: int) -> None:
        self.world.damage(self.node(number), pick)

    @rule(number=nodes)
    def crash(self, number: int) -> None:
        self.world.crash(self.node(number))

    @rule(number=nodes, other=nodes, alive=st.booleans())
    def look(self, number: int, other: int, alive: bool) -> None:
        self.world.look(self.node(number), self.node(other), alive=alive)

    @rule(duration=st.sampled_from([100, 350, 1_100, 6_000, 31_000]))
    def time_passes(self, duration: int) -> None:
        self.world.pass_time(duration)

    @precondition(lambda self: self.world.way)
    @rule(pick=picks)
    def packet_comes(self, pick: int) -> None:
        self.world.arrive(self.world.first_of_a_link(pick))

    @rule()
    def packets_come(self) -> None:
        for _ in range(len(self.world.way)):
            self.world.arrive(0)

    @precondition(lambda self: self.world.way and not self.orderly)
    @rule(pick=picks)
    def packet_overtakes(self, pick: int) -> None:
        self.world.arrive(pick % len(self.world.way))

    @precondition(lambda self: self.world.way and not self.orderly)
    @rule(pick=picks)
    def packet_is_lost(self, pick: int) -> None:
        self.world.way.pop(pick % len(self.world.way))

    @precondition(lambda self: self.world.way and not self.orderly)
    @rule(pick=picks)
    def packet_is_repeated(self, pick: int) -> None:
        self.world.way.append(self.world.way[pick % len(self.world.way)])

    @rule(number=nodes, other=nodes)
    def link_breaks(self, number: int, other: int) -> None:
        self.world.break_link(self.node(number), self.node(other))

    @invariant()
    def what_was_promised_is_kept(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        self.world.heal()


class CopiesInOrderMachine(CopiesMachine):
    """Links that keep order and break as a whole, as real ones do."""

    orderly = True


class FiveCopiesMachine(CopiesMachine):
    """Five homes, of which three commit."""

    homes = 5


class ChangingCopiesMachine(CopiesMachine):
    """How many copies commit is changed at run time, and each home learns it at another moment."""

    @rule(number=nodes, copies=st.integers(1, 3))
    def settings_change(self, number: int, copies: int) -> None:
        self.world.want(self.node(number), copies)


def test_three_copies_keep_every_promise_whatever_packets_do() -> None:
    run_state_machine_as_test(
        CopiesMachine, settings=settings(max_examples=60, stateful_step_count=50, deadline=None)
    )


def test_three_copies_keep_publishers_order_while_links_keep_theirs() -> None:
    run_state_machine_as_test(
        CopiesInOrderMachine,
        settings=settings(max_examples=40, stateful_step_count=50, deadline=None),
    )


def test_five_copies_keep_every_promise_whatever_packets_do() -> None:
    run_state_machine_as_test(
        FiveCopiesMachine, settings=settings(max_examples=30, stateful_step_count=50, deadline=None)
    )


def test_copies_whose_number_changes_keep_what_was_promised_with_each() -> None:
    run_state_machine_as_test(
        ChangingCopiesMachine,
        settings=settings(max_examples=60, stateful_step_count=50, deadline=None),
    )
