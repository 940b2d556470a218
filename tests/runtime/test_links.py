"""Links: greetings, refusals, connections that come and go."""

from collections.abc import Iterator
from typing import Any

import pytest

from p2pmq.config import Limits
from p2pmq.core.packets.link import (
    REFUSED_NAME_TAKEN,
    REFUSED_OTHER_MESH,
    REFUSED_SELF,
    REFUSED_VERSION,
    Hello,
    HelloRefused,
    HelloWanted,
)
from p2pmq.net.base import SendResult
from p2pmq.runtime.links import HELLOS_MAX
from p2pmq.sim.later import unknown_packet
from tests.runtime.kit import (
    ADDRESS,
    OTHER,
    PEER,
    US,
    Scene,
    advance,
    control,
    hello,
    sealed,
    virtual_loop,
)


@pytest.fixture
def scene() -> Iterator[Scene]:
    with virtual_loop() as loop:
        made = Scene(loop)
        yield made
        made.links.close()


# -- greetings --


def test_what_we_dial_is_greeted_and_up_with_the_answer(scene: Scene) -> None:
    connection = scene.dial()
    assert [packet.answer for packet in scene.transport.take() if isinstance(packet, Hello)] == [
        False
    ]
    assert [said.node_id for said in scene.events.connected] == [PEER]
    assert scene.links.is_connected(PEER)
    assert connection not in scene.transport.hung_up


def test_who_dials_us_is_answered_and_up_with_its_hello(scene: Scene) -> None:
    connection = scene.accept()
    (answer,) = scene.transport.take(connection)
    assert isinstance(answer, Hello)
    assert answer.answer
    assert [said.node_id for said in scene.events.connected] == [PEER]


def test_an_accepted_connection_is_not_greeted_first(scene: Scene) -> None:
    scene.links.on_opened(1, dialled=False)
    assert scene.transport.take() == []


def test_hello_is_said_again_until_it_is_answered(scene: Scene) -> None:
    scene.links.try_address(ADDRESS)
    (connection,) = scene.transport.dialled
    scene.links.on_opened(connection, dialled=True)
    advance(scene.loop, 2.5)
    assert len(scene.transport.take()) == 3
    scene.receive(connection, hello(answer=True))
    advance(scene.loop, 10)
    assert scene.transport.take() == []
    assert scene.transport.hung_up == []


def test_an_address_that_does_not_answer_is_given_up_and_may_be_tried_anew(scene: Scene) -> None:
    scene.links.try_address(ADDRESS)
    scene.links.try_address(ADDRESS)
    (connection,) = scene.transport.dialled
    scene.links.on_opened(connection, dialled=True)
    advance(scene.loop, 60)
    assert len(scene.transport.take()) == HELLOS_MAX
    assert scene.transport.hung_up == [connection]
    scene.links.try_address(ADDRESS)
    assert len(scene.transport.dialled) == 2


def test_a_packet_before_hello_asks_for_one_at_most_once_a_second(scene: Scene) -> None:
    scene.links.on_opened(1, dialled=False)
    for _ in range(50):
        scene.receive(1, control())
    assert scene.transport.take() == [HelloWanted()]
    advance(scene.loop, 1.1)
    scene.receive(1, control())
    assert scene.transport.take() == [HelloWanted()]
    assert scene.events.packets == []


def test_whoever_wants_a_hello_gets_one(scene: Scene) -> None:
    connection = scene.dial()
    scene.transport.take()
    scene.receive(connection, HelloWanted())
    (said,) = scene.transport.take(connection)
    assert isinstance(said, Hello)
    assert not said.answer


def test_packets_come_with_the_name_of_who_said_hello(scene: Scene) -> None:
    scene.receive(scene.accept(), control(7))
    assert scene.events.packets == [(PEER, control(7))]


# -- refusals --

REFUSED: list[tuple[dict[str, Any], int]] = [
    ({"mesh": "another"}, REFUSED_OTHER_MESH),
    ({"version_min": 2, "version_max": 9}, REFUSED_VERSION),
    ({"node_id": US}, REFUSED_SELF),
    ({"name": US.decode()}, REFUSED_NAME_TAKEN),
    ({"name": "held"}, REFUSED_NAME_TAKEN),
]


@pytest.mark.parametrize(("changed", "reason"), REFUSED)
def test_a_stranger_is_refused_with_the_reason(
    scene: Scene, changed: dict[str, Any], reason: int
) -> None:
    scene.events.holders["held"] = "127.0.0.1:9"
    scene.accept(1, hello(**changed))
    (refusal,) = scene.transport.take()
    assert isinstance(refusal, HelloRefused)
    assert refusal.reason == reason
    assert scene.events.connected == []
    scene.receive(1, control())
    assert scene.events.packets == []


def test_whoever_refuses_us_is_hung_up_and_told_of(scene: Scene) -> None:
    scene.links.try_address(ADDRESS)
    (connection,) = scene.transport.dialled
    scene.links.on_opened(connection, dialled=True)
    scene.receive(connection, HelloRefused(REFUSED_NAME_TAKEN, "what it says"))
    assert scene.events.refusals == [
        (REFUSED_NAME_TAKEN, "the name is taken by a living node", ADDRESS)
    ]
    assert scene.transport.hung_up == [connection]


def test_a_refusal_of_a_later_version_is_shown_without_its_line_breaks(scene: Scene) -> None:
    scene.links.try_address(ADDRESS)
    (connection,) = scene.transport.dialled
    scene.receive(connection, HelloRefused(99, "no\nfake log line" + "x" * 1_000))
    ((_, text, _),) = scene.events.refusals
    assert "\n" not in text
    assert len(text) < 300


def test_our_own_address_is_found_out_once(scene: Scene) -> None:
    scene.dial(hello(US, answer=False))
    scene.links.try_address(ADDRESS)
    assert len(scene.transport.dialled) == 1


def test_the_refusal_of_a_version_says_which_ones_would_do(scene: Scene) -> None:
    scene.accept(1, hello(version_min=2, version_max=9))
    (refusal,) = scene.transport.take()
    assert isinstance(refusal, HelloRefused)
    assert refusal.text == (
        "no protocol version in common: it speaks protocol version 1, you protocol versions 2 to 9"
    )
    scene.links.try_address(ADDRESS)
    (connection,) = scene.transport.dialled
    scene.receive(connection, refusal)
    assert scene.events.refusals == [(REFUSED_VERSION, refusal.text, ADDRESS)]


def test_a_link_knows_the_version_that_was_agreed_on(scene: Scene) -> None:
    assert scene.links.version_of(PEER) is None
    scene.accept(1, hello(version_min=1, version_max=7))
    assert scene.links.version_of(PEER) == 1
    scene.links.on_closed(1)
    assert scene.links.version_of(PEER) is None


@pytest.mark.parametrize(("latest", "malformed"), [(1, 1), (2, 0)])
def test_an_unknown_packet_is_a_fault_only_of_a_peer_of_this_version(
    scene: Scene, latest: int, malformed: int
) -> None:
    scene.accept(1, hello(version_max=latest))
    scene.links.on_frames(1, unknown_packet())
    assert len(scene.events.malformed) == malformed
    assert scene.events.counts["packet_of_later_version"] == 1 - malformed


# -- connections --


def test_both_dial_at_once_and_one_link_is_up(scene: Scene) -> None:
    dialled = scene.dial()
    accepted = scene.accept()
    assert len(scene.events.connected) == 1
    scene.transport.take()
    scene.links.send(PEER, control())
    assert [c for c, _ in scene.transport.sent] == [dialled], "what we dialled comes first"
    scene.links.on_closed(dialled)
    assert scene.events.disconnected == []
    scene.links.send(PEER, control())
    assert scene.transport.sent[-1][0] == accepted


def test_a_second_connection_dialled_to_one_peer_is_closed(scene: Scene) -> None:
    first = scene.dial()
    second = scene.dial(hello(answer=True), address="127.0.0.1:2000")
    assert scene.transport.hung_up == [second]
    assert scene.links.is_connected(PEER)
    scene.transport.take()
    scene.links.send(PEER, control())
    assert scene.transport.take(first) == [control()]


def test_a_restarted_peer_is_told_of_again_and_its_old_connections_end(scene: Scene) -> None:
    old = scene.accept(1)
    scene.accept(2, hello(boot=2))
    assert [said.boot for said in scene.events.connected] == [1, 2]
    assert scene.transport.hung_up == [old]
    scene.transport.take()
    scene.links.send(PEER, control())
    assert scene.transport.take(2) == [control()]


def test_the_same_hello_again_is_answered_and_not_told_of(scene: Scene) -> None:
    connection = scene.accept()
    scene.transport.take()
    scene.receive(connection, hello())
    assert len(scene.transport.take()) == 1
    assert len(scene.events.connected) == 1


def test_a_connection_that_says_hello_as_somebody_else_leaves_the_first_link(scene: Scene) -> None:
    connection = scene.accept()
    scene.links.learn(PEER, (ADDRESS,))
    scene.receive(connection, hello(OTHER))
    assert scene.events.disconnected == [PEER]
    scene.links.on_closed(connection)
    assert scene.events.disconnected == [PEER, OTHER]
    scene.links.send(PEER, control())  # dials; what is closed is not used
    assert list(scene.transport.dialled.values()) == [ADDRESS]


def test_closing_twice_is_closing_once(scene: Scene) -> None:
    for connection in (scene.accept(), scene.dial(hello(OTHER, answer=True))):
        scene.links.on_closed(connection)
        scene.links.on_closed(connection)
    assert scene.events.disconnected == [PEER, OTHER]


def test_what_we_dialled_comes_back_by_itself(scene: Scene) -> None:
    connection = scene.dial()
    scene.links.on_closed(connection)
    advance(scene.loop, 2)
    scene.transport.take()
    scene.links.on_opened(connection, dialled=True)
    assert len(scene.transport.take(connection)) == 1
    scene.receive(connection, hello(boot=2, answer=True))
    assert [said.boot for said in scene.events.connected] == [1, 2]
    assert scene.transport.hung_up == []


def test_a_send_dials_every_address_once_and_goes_out_with_the_first_that_answers(
    scene: Scene,
) -> None:
    scene.links.learn(PEER, ("127.0.0.1:1", "127.0.0.1:2"))
    scene.links.send(PEER, control(1))
    scene.links.send(PEER, control(2))
    first, second = scene.transport.dialled
    scene.links.on_opened(second, dialled=True)
    scene.receive(second, hello(answer=True))
    sent = [packet for packet in scene.transport.take(second) if not isinstance(packet, Hello)]
    assert sent == [control(1), control(2)]
    assert first != second


def test_nothing_is_dialled_before_it_is_needed(scene: Scene) -> None:
    scene.links.learn(PEER, (ADDRESS,))
    assert scene.transport.dialled == {}


def test_a_packet_to_nobody_is_counted(scene: Scene) -> None:
    scene.links.send(PEER, control())
    scene.links.learn(OTHER, (ADDRESS,))
    scene.links.learn(OTHER, ())
    scene.links.send(OTHER, control())
    assert scene.events.counts["packet_dropped_no_address"] == 2


def test_what_waits_for_a_peer_that_cannot_be_reached_is_dropped_and_counted(scene: Scene) -> None:
    scene.links.learn(PEER, (ADDRESS,))
    scene.links.send(PEER, control())
    advance(scene.loop, 60)
    assert scene.events.counts["packet_dropped_unreachable"] == 1


def test_the_least_used_dialled_link_is_closed_at_the_limit() -> None:
    with virtual_loop() as loop:
        scene = Scene(loop, Limits(links_max=2))
        one = scene.dial(hello(b"node-001", answer=True), "127.0.0.1:1")
        two = scene.dial(hello(b"node-002", answer=True), "127.0.0.1:2")
        advance(loop, 1)
        scene.links.send(b"node-001", control())
        scene.links.learn(b"node-003", ("127.0.0.1:3",))
        scene.links.send(b"node-003", control())
        assert scene.transport.hung_up == [two]
        assert scene.events.disconnected == [b"node-002"]
        assert one not in scene.transport.hung_up
        scene.links.close()


def test_what_a_peer_dialled_is_not_closed_at_the_limit() -> None:
    """It would go on to send through it, and nothing would arrive."""
    with virtual_loop() as loop:
        scene = Scene(loop, Limits(links_max=1))
        dialled = scene.dial()
        accepted = scene.accept(1)
        scene.links.learn(OTHER, ("127.0.0.1:3",))
        scene.links.send(OTHER, control())
        assert scene.transport.hung_up == [dialled]
        assert scene.events.disconnected == []
        scene.transport.take()
        scene.links.send(PEER, control())
        assert scene.transport.take(accepted) == [control()]
        scene.links.close()


def test_strangers_that_come_and_go_leave_nothing_behind(scene: Scene) -> None:
    for number in range(500):
        connection = scene.accept(number, hello(b"%08d" % number, name=f"n{number}"))
        scene.links.on_closed(connection)
    assert len(scene.links._links) == 0
    assert len(scene.links._connections) == 0


def test_a_peer_that_the_core_knows_is_kept_while_away(scene: Scene) -> None:
    connection = scene.accept()
    scene.links.learn(PEER, (ADDRESS,))
    scene.links.on_closed(connection)
    scene.links.send(PEER, control())
    assert list(scene.transport.dialled.values()) == [ADDRESS]


# -- what is wrong --


def test_malformed_frames_are_told_of_by_reason_and_the_connection_is_kept(scene: Scene) -> None:
    connection = scene.accept()
    headers = (b"", b"\xc1", b"\x91\xcd\xff\xff", b"\x92\x0a\xa1x")
    for frames in ([], [b"damaged on the way"], *map(sealed, headers)):
        scene.links.on_frames(connection, frames)
    reasons = [reason for reason, _ in scene.events.malformed]
    assert reasons[:2] == ["frames", "checksum"]
    assert {"not-msgpack", "unknown-packet"} < set(reasons)
    assert len(reasons) == 6
    assert all(PEER.decode() in text for _, text in scene.events.malformed)
    scene.receive(connection, control())
    assert scene.events.packets == [(PEER, control())]
    assert scene.transport.hung_up == []


def test_frames_and_calls_for_a_connection_that_is_gone_are_let_be(scene: Scene) -> None:
    scene.links.on_frames(77, [b"x"])
    scene.links.on_writable(77)
    scene.links.on_closed(77)
    assert scene.events.malformed == []


def test_a_connection_that_is_gone_at_a_send_is_not_used_again(scene: Scene) -> None:
    connection = scene.accept()
    scene.transport.results[connection] = SendResult.GONE
    scene.links.send(PEER, control())
    assert scene.events.disconnected == [PEER]


def test_the_listener_may_send_to_the_peer_that_it_hears_is_gone(scene: Scene) -> None:
    connection = scene.dial()
    scene.links.learn(PEER, (ADDRESS,))
    scene.events.on_gone = lambda peer: scene.links.send(peer, control())
    scene.transport.results[connection] = SendResult.GONE
    scene.links.send(PEER, control())
    assert scene.events.disconnected == [PEER]
