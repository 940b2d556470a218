"""Links: control goes at once, bulk within a window, and nothing into a full pipe."""

from collections.abc import Iterator

import pytest

from p2pmq.config import Limits
from p2pmq.core.packets.emitting import Emit
from p2pmq.core.packets.link import WindowUpdate
from p2pmq.core.packets.publishing import Batch, Publish
from p2pmq.core.packets.registry import Packet
from p2pmq.net.base import SendResult
from p2pmq.runtime.lanes import BULK_QUEUE_MAX, CONTROL_QUEUE_MAX, EMIT_QUEUE_MAX
from p2pmq.runtime.links import WINDOW_STALL_S
from p2pmq.wire.bodies import PackedBodies
from p2pmq.wire.codec import encode
from tests.runtime.kit import ADDRESS, PEER, Scene, advance, bulk, control, hello, virtual_loop

SIZE = 1_000
FRAMES = sum(map(len, encode(bulk(1, SIZE))))
"""Bytes that one bulk packet counts for."""
WINDOW = 4 * FRAMES


@pytest.fixture
def scene() -> Iterator[Scene]:
    with virtual_loop() as loop:
        made = Scene(loop, Limits(link_window_bytes=WINDOW))
        made.accept(1)
        made.transport.take()
        yield made
        made.links.close()


def send_bulk(scene: Scene, first: int, count: int) -> None:
    for number in range(first, first + count):
        scene.links.send(PEER, bulk(number, SIZE))


def numbers(packets: list[Packet]) -> list[int]:
    return [packet.batch.first for packet in packets if isinstance(packet, Publish)]


def report(scene: Scene, received: int) -> None:
    scene.receive(1, WindowUpdate(received))


def test_bulk_stops_at_the_window_and_control_overtakes_it(scene: Scene) -> None:
    send_bulk(scene, 1, 10)
    assert numbers(scene.transport.take()) == [1, 2, 3, 4]
    scene.links.send(PEER, control())
    assert scene.transport.take() == [control()]


def test_a_report_of_the_peer_opens_the_window_again(scene: Scene) -> None:
    send_bulk(scene, 1, 10)
    scene.transport.take()
    report(scene, 2 * FRAMES)
    assert numbers(scene.transport.take()) == [5, 6]
    report(scene, 2 * FRAMES)
    assert numbers(scene.transport.take()) == []
    report(scene, 6 * FRAMES)
    assert numbers(scene.transport.take()) == [7, 8, 9, 10]


def test_a_packet_larger_than_the_window_goes_alone(scene: Scene) -> None:
    scene.links.send(PEER, bulk(1, 10 * WINDOW))
    send_bulk(scene, 2, 1)
    assert numbers(scene.transport.take()) == [1]


def test_what_we_take_in_is_reported_by_quarters_of_the_window(scene: Scene) -> None:
    for number in range(1, 9):
        scene.receive(1, bulk(number, SIZE))
    reports = [packet for packet in scene.transport.take() if isinstance(packet, WindowUpdate)]
    assert [report.received for report in reports] == [FRAMES * n for n in range(1, 9)]


def test_control_packets_do_not_count_for_the_window(scene: Scene) -> None:
    for number in range(1_000):
        scene.receive(1, control(number))
    assert scene.transport.take() == []


def test_silence_with_a_full_window_takes_what_was_sent_for_lost(scene: Scene) -> None:
    send_bulk(scene, 1, 10)
    scene.transport.take()
    advance(scene.loop, WINDOW_STALL_S + 0.1)
    assert numbers(scene.transport.take()) == [5, 6, 7, 8]
    assert scene.events.counts["link_window_stalled"] == 1


def test_a_report_in_time_keeps_the_window_from_stalling(scene: Scene) -> None:
    send_bulk(scene, 1, 5)
    advance(scene.loop, WINDOW_STALL_S / 2)
    report(scene, 4 * FRAMES)
    advance(scene.loop, 10 * WINDOW_STALL_S)
    assert scene.events.counts["link_window_stalled"] == 0


@pytest.mark.parametrize("starts_at", [0, 7, 1_000])
def test_a_counter_of_the_peer_that_is_out_of_step_costs_at_most_one_stall(
    scene: Scene, starts_at: int
) -> None:
    """Packets were lost on the way, or the peer's end of the connection began anew."""
    send_bulk(scene, 1, 100)
    lost, told = 3, 0
    for _ in range(200):
        received = len(scene.transport.sent) - lost
        if received > told:
            told = received
            report(scene, (starts_at + received) * FRAMES)
        advance(scene.loop, 0.1)
    assert numbers(scene.transport.take()) == list(range(1, 101))
    assert scene.events.counts["link_window_stalled"] <= 1


def test_after_packets_were_lost_the_window_is_a_window_still(scene: Scene) -> None:
    send_bulk(scene, 1, 100)
    advance(scene.loop, WINDOW_STALL_S + 0.1)
    assert len(scene.transport.take()) == 8
    report(scene, 4 * FRAMES)  # of eight sent the first four were lost
    assert len(scene.transport.take()) == 4


def test_a_full_pipe_is_waited_for(scene: Scene) -> None:
    scene.transport.results[1] = SendResult.FULL
    scene.links.send(PEER, control(1))
    scene.links.send(PEER, control(2))
    send_bulk(scene, 1, 2)
    assert scene.transport.take() == []
    scene.transport.results[1] = SendResult.SENT
    scene.links.on_writable(1)
    sent = scene.transport.take()
    assert sent[:2] == [control(1), control(2)]
    assert numbers(sent) == [1, 2]


def test_a_pipe_that_is_full_again_loses_nothing(scene: Scene) -> None:
    scene.transport.results[1] = SendResult.FULL
    send_bulk(scene, 1, 3)
    for _ in range(5):
        scene.links.on_writable(1)
    scene.transport.results[1] = SendResult.SENT
    scene.links.on_writable(1)
    assert numbers(scene.transport.take()) == [1, 2, 3]


def test_both_queues_are_bounded_and_the_oldest_go(scene: Scene) -> None:
    scene.transport.results[1] = SendResult.FULL
    for number in range(CONTROL_QUEUE_MAX + 5):
        scene.links.send(PEER, control(number))
    send_bulk(scene, 1, BULK_QUEUE_MAX + 5)
    assert scene.events.counts["packet_dropped_queue_full"] == 10
    scene.transport.results[1] = SendResult.SENT
    scene.links.on_writable(1)
    sent = scene.transport.take()
    assert sent[0] == control(5)
    assert numbers(sent)[0] == 6


def test_bulk_for_a_connection_that_ended_is_dropped_and_the_window_begins_anew(
    scene: Scene,
) -> None:
    scene.links.learn(PEER, (ADDRESS,))
    send_bulk(scene, 1, 10)
    scene.links.on_closed(1)
    scene.transport.take()
    scene.accept(2)
    scene.transport.take()
    send_bulk(scene, 11, 10)
    assert numbers(scene.transport.take(2)) == [11, 12, 13, 14]
    advance(scene.loop, 0.5)
    assert scene.events.counts["link_window_stalled"] == 0


def test_a_dialled_connection_that_came_back_has_a_whole_window(scene: Scene) -> None:
    scene.links.on_closed(1)
    connection = scene.dial()
    send_bulk(scene, 1, 10)
    scene.links.on_closed(connection)
    scene.links.on_opened(connection, dialled=True)
    scene.receive(connection, hello(answer=True))
    scene.transport.take()
    send_bulk(scene, 11, 10)
    assert numbers(scene.transport.take(connection)) == [11, 12, 13, 14]


def test_a_packet_whose_bodies_cannot_be_read_is_left_out(scene: Scene) -> None:
    scene.events.unreadable = True
    send_bulk(scene, 1, 1)
    scene.events.unreadable = False
    send_bulk(scene, 2, 1)
    assert numbers(scene.transport.take()) == [2]


def test_an_absurd_report_does_not_open_the_window_for_ever(scene: Scene) -> None:
    send_bulk(scene, 1, 20)
    report(scene, 2**64 - 1)
    assert len(scene.transport.take()) == 8
    report(scene, 2**64 - 1)
    assert len(scene.transport.take()) <= 4


def test_emits_share_the_window_with_bulk_in_turn_and_the_oldest_are_dropped(scene: Scene) -> None:
    send_bulk(scene, 1, 6)
    for number in range(1, EMIT_QUEUE_MAX + 4):
        scene.links.send(PEER, emit(number, SIZE))
    scene.transport.take()
    assert scene.events.counts["emits_dropped"] == 3
    report(scene, 4 * FRAMES)
    kinds = [type(packet).__name__ for packet in scene.transport.take()]
    assert kinds == ["Emit", "Publish", "Emit", "Publish"]


def test_emits_that_no_link_can_take_are_counted(scene: Scene) -> None:
    scene.links.send(b"nobody--", emit(1, 10))
    assert scene.events.counts["emits_dropped"] == 1
    send_bulk(scene, 1, 10)
    scene.links.send(PEER, emit(1, SIZE))
    scene.links.on_closed(1)
    assert scene.events.counts["emits_dropped"] == 2


def emit(number: int, size: int) -> Emit:
    packed = PackedBodies.from_bodies([bytes(size)])
    return Emit(("topic",), Batch(b"session1", number, 1, size, packed))
