"""Probes: the order of the targets, and what silence is taken for."""

from __future__ import annotations

import random

from p2pmq.config import SwimConfig
from p2pmq.core.effects import Effect, Send
from p2pmq.core.membership import Member, MemberState, Roster, SwimTimers
from p2pmq.core.packets.membership import Ping, PingRequest, ProbeAck, ProbeNack, Rumour
from p2pmq.core.probe import ProbeOrder, Prober
from p2pmq.core.suspicion import Awareness
from tests.core.swim_mesh import node_id_of, rumour_of

CONFIG = SwimConfig()


class Bench:
    """A prober with its parts."""

    def __init__(self, members: int, config: SwimConfig = CONFIG) -> None:
        self.roster = Roster(rumour_of(0))
        self.order = ProbeOrder(self.roster, config, random.Random(5))
        self.members = [self.add(number) for number in range(1, members + 1)]
        self.awareness = Awareness(config)
        self.timers: SwimTimers = SwimTimers()
        self.prober = Prober(
            node_id_of(0),
            config,
            order=self.order,
            timers=self.timers,
            awareness=self.awareness,
            take=self.take,
            first_number=2**32 - 2,
        )

    @staticmethod
    def take(first: Rumour | None) -> tuple[Rumour, ...]:
        return () if first is None else (first,)

    def add(self, number: int) -> Member:
        member = Member(rumour_of(number), MemberState.ALIVE, 0)
        self.roster.add(member, [])
        self.order.add(member)
        return member

    def begin(self, now: int = 0) -> tuple[Member, Ping]:
        out: list[Effect] = []
        self.prober.begin(now, out)
        (send,) = out
        assert isinstance(send, Send)
        assert isinstance(send.packet, Ping)
        return self.roster.members[send.peer], send.packet

    def indirect(self, now: int = 500) -> list[Send]:
        out: list[Effect] = []
        self.prober.on_indirect_timeout(now, out)
        return [effect for effect in out if isinstance(effect, Send)]

    def kill(self, member: Member, now: int = 0) -> None:
        self.roster.become(member, MemberState.DEAD, member.incarnation, now)


def packets_of(out: list[Effect]) -> list[tuple[bytes, object]]:
    return [(effect.peer, effect.packet) for effect in out if isinstance(effect, Send)]


def test_each_living_member_is_probed_once_a_round_in_an_order_that_changes() -> None:
    order = Bench(8).order
    rounds = [tuple(order.next(0) for _ in range(8)) for _ in range(4)]
    assert all(len(set(members)) == 8 for members in rounds)
    assert len(set(rounds)) == 4


def test_the_dead_are_passed_over_and_nobody_is_left_in_the_end() -> None:
    bench = Bench(3)
    bench.kill(bench.members[1])
    assert bench.members[1] not in [bench.order.next(0) for _ in range(6)]
    for member in (bench.members[0], bench.members[2]):
        bench.kill(member)
    assert bench.order.next(0) is None


def test_a_new_member_is_probed_in_the_same_round() -> None:
    bench = Bench(6)
    seen = [bench.order.next(0) for _ in range(3)]
    new = bench.add(7)
    bench.order.add(new)  # twice is once
    seen += [bench.order.next(0) for _ in range(4)]
    assert new in seen
    assert len(set(seen)) == 7


def test_one_in_doubt_is_the_next() -> None:
    bench = Bench(6)
    bench.order.hurry(bench.members[4])
    assert bench.order.next(0) is bench.members[4]


def test_samples_are_distinct_and_hold_the_lately_dead() -> None:
    bench = Bench(4)
    bench.kill(bench.members[0], now=0)
    assert set(bench.order.sample(10, 10)) == set(bench.members)
    assert bench.members[0] not in bench.order.sample(10, CONFIG.gossip_to_the_dead_ms)
    assert len(set(bench.order.sample(2, 10))) == 2


def test_an_answered_probe_accuses_nobody_and_betters_the_health() -> None:
    bench = Bench(3)
    bench.awareness.apply(2)
    member, ping = bench.begin()
    assert ping.target == member.node_id
    bench.prober.on_ack(member.node_id, ProbeAck(ping.number, ping.target), [])
    assert bench.prober.end([]) is None
    assert bench.awareness.score == 1
    assert bench.timers.next_deadline() is None


def test_silence_accuses_and_costs_health() -> None:
    bench = Bench(1)
    member, _ = bench.begin()
    assert bench.prober.end([]) is member
    assert bench.awareness.score == 1


def test_an_answer_from_the_wrong_peer_or_number_is_none() -> None:
    bench = Bench(3)
    member, ping = bench.begin()
    other = next(each for each in bench.members if each is not member)
    bench.prober.on_ack(other.node_id, ProbeAck(ping.number, ping.target), [])
    bench.prober.on_ack(member.node_id, ProbeAck(ping.number + 9, ping.target), [])
    assert bench.prober.end([]) is member


def test_whoever_was_heard_since_is_not_accused() -> None:
    bench = Bench(2)
    member, _ = bench.begin(now=100)
    member.heard_ms = 101
    assert bench.prober.end([]) is None


def test_a_silent_target_is_asked_by_others_and_their_ack_counts() -> None:
    bench = Bench(6)
    member, ping = bench.begin()
    requests = bench.indirect()
    assert len({send.peer for send in requests}) == 3
    assert member.node_id not in [send.peer for send in requests]
    request = requests[0].packet
    assert isinstance(request, PingRequest)
    assert (request.number, request.target, request.timeout_ms) == (ping.number, ping.target, 400)
    bench.prober.on_ack(requests[1].peer, ProbeAck(ping.number, ping.target), [])
    assert bench.prober.end([]) is None


def test_nacks_leave_the_health_as_it_is_and_missing_ones_do_not() -> None:
    for nacks, score in ((3, 0), (1, 2)):
        bench = Bench(6)
        member, ping = bench.begin()
        for send in bench.indirect()[:nacks]:
            for _ in range(2):  # a repeated nack counts once
                bench.prober.on_nack(send.peer, ProbeNack(ping.number, ping.target))
        assert bench.prober.end([]) is member
        assert bench.awareness.score == score


def test_a_suspect_hears_of_its_suspicion_with_the_ping() -> None:
    bench = Bench(1)
    bench.roster.become(bench.members[0], MemberState.SUSPECT, 1, 0)
    _, ping = bench.begin()
    assert ping.rumours == (bench.members[0].verdict(),)


def test_without_lifeguard_it_does_not() -> None:
    bench = Bench(1, SwimConfig(lifeguard=False))
    bench.roster.become(bench.members[0], MemberState.SUSPECT, 1, 0)
    assert bench.begin()[1].rumours == ()


def test_a_relay_passes_the_answer_on() -> None:
    bench = Bench(2)
    asker, target = (member.node_id for member in bench.members)
    out: list[Effect] = []
    bench.prober.on_request(asker, PingRequest(7, target, 400), bench.members[1], 0, out)
    ((peer, ping),) = packets_of(out)
    assert peer == target
    assert isinstance(ping, Ping)
    out = []
    bench.prober.on_ack(target, ProbeAck(ping.number, target), out)
    assert packets_of(out) == [(asker, ProbeAck(7, target))]
    assert bench.timers.next_deadline() is None


def test_a_relay_that_hears_nothing_says_so_in_time() -> None:
    bench = Bench(2)
    asker, target = (member.node_id for member in bench.members)
    bench.prober.on_request(asker, PingRequest(7, target, 400), bench.members[1], 0, [])
    assert bench.timers.next_deadline() == 400
    due = bench.timers.pop_due(400)
    assert due is not None
    out: list[Effect] = []
    assert isinstance(due[1], int)
    bench.prober.on_relay_timeout(due[1], out)
    assert packets_of(out) == [(asker, ProbeNack(7, target))]


def test_a_relay_that_is_the_target_answers_itself() -> None:
    bench = Bench(1)
    out: list[Effect] = []
    request = PingRequest(7, node_id_of(0), 400)
    bench.prober.on_request(node_id_of(1), request, bench.roster.own, 0, out)
    assert packets_of(out) == [(node_id_of(1), ProbeAck(7, node_id_of(0)))]


def test_numbers_wrap_around() -> None:
    bench = Bench(1)
    assert [bench.begin()[1].number for _ in range(3)] == [2**32 - 1, 0, 1]
