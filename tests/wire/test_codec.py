"""The codec: round trips, golden bytes, versions, and what it refuses."""

import json
from pathlib import Path

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pmq.core.ids import PartitionKey
from p2pmq.core.packets import PACKETS, Packet
from p2pmq.core.packets.delivering import Attach, Settle
from p2pmq.core.packets.link import Hello
from p2pmq.core.packets.membership import Gossip, Ping, Rumour
from p2pmq.core.packets.publishing import Batch, Gap, Publish, RunField, StatsRequest
from p2pmq.core.records import Space, StoredBodies
from p2pmq.wire.bodies import PackedBodies
from p2pmq.wire.codec import decode, encode
from p2pmq.wire.errors import REASONS, PacketError
from p2pmq.wire.schema import fields_of
from tests.wire.headers import header_frame, values_of, with_crc
from tests.wire.samples import composites, full, golden, least

GOLDEN = Path(__file__).with_name("golden.json")
ID = b"\1" * 8
every_packet = pytest.mark.parametrize("cls", PACKETS.values(), ids=lambda cls: cls.__name__)


def frames(*values: object) -> list[bytes]:
    return [header_frame(*values)]


def reason_of(packet: list[bytes]) -> str:
    with pytest.raises(PacketError) as caught:
        decode(packet)
    assert caught.value.reason in REASONS
    return caught.value.reason


@every_packet
@settings(max_examples=25)
@given(data=st.data())
def test_every_packet_comes_back_as_it_was(cls: type[Packet], data: st.DataObject) -> None:
    packet = data.draw(composites(cls))
    assert decode(encode(packet)) == packet


def test_the_bytes_of_every_packet_are_the_golden_ones() -> None:
    written = json.loads(GOLDEN.read_text(encoding="utf-8"))
    made = golden()
    assert list(written) == list(made), "a packet is new or gone: see tests/wire/samples.py"
    for name, samples in made.items():
        assert samples == written[name], f"{name}: its bytes have changed"


@every_packet
def test_the_golden_bytes_decode_to_the_samples(cls: type[Packet]) -> None:
    written = json.loads(GOLDEN.read_text(encoding="utf-8"))[cls.__name__]
    assert decode(list(map(bytes.fromhex, written["least"]))) == least(cls)
    assert decode(list(map(bytes.fromhex, written["full"]))) == full(cls)


# ---------------------------------------------------------------------------------------- versions


@every_packet
def test_an_older_peer_may_leave_out_every_field_that_has_a_default(cls: type[Packet]) -> None:
    header, *bodies = encode(full(cls))
    array, fields = values_of(header), fields_of(cls)
    required = sum(field.required for field in fields)
    for kept in range(required, len(fields)):
        whole = any(field.name in {"batch", "batches"} for field in fields[:kept])
        packet = decode([header_frame(*array[: 1 + kept]), *(bodies if whole else [])])
        for field in fields[:kept]:
            assert getattr(packet, field.name) == getattr(full(cls), field.name)
        for field in fields[kept:]:
            assert getattr(packet, field.name) == field.default


@every_packet
def test_a_field_without_a_default_must_be_there(cls: type[Packet]) -> None:
    header, *bodies = encode(full(cls))
    required = sum(field.required for field in fields_of(cls))
    if required:
        short = header_frame(*values_of(header)[:required])
        assert reason_of([short, *bodies]) == "missing-field"


@every_packet
def test_what_a_newer_peer_appends_is_ignored(cls: type[Packet]) -> None:
    header, *bodies = encode(full(cls))
    longer = [*values_of(header), 42, None, ["new", [b"x"], 1.5]]
    assert decode([header_frame(*longer), *bodies]) == full(cls)


def test_versions_meet_within_structs_too() -> None:
    old = [ID, 1, 7]
    new = [ID, 1, 7, ID, "n", ["h:1"], 3, ID, "z", 5, ID, "unknown", [1]]
    packet = decode(frames(14, [old, new]))
    known = Rumour(ID, 1, 7, ID, "n", ("h:1",), 3, ID, "z", 5, ID)
    assert packet == Gossip((Rumour(ID, 1, 7), known))


def test_trailing_defaults_take_no_bytes() -> None:
    assert values_of(encode(Ping(1, ID))[0]) == [10, 1, ID]
    assert values_of(encode(Hello("m", ID, 1, "n", (), 1, 1, answer=True))[0])[-2:] == [
        False,
        True,
    ]


def test_a_batch_keeps_its_stamp_and_its_bodies_lie_in_a_frame_of_their_own() -> None:
    bodies = PackedBodies.from_bodies([b"a", b"b"])
    header, blob = encode(Publish("q", 0, 0, Batch(ID, 1, 2, 2, bodies, stamp=9)))
    assert values_of(header) == [20, "q", 0, 0, [ID, 1, 2, 2, 9]]
    assert blob is bodies.blob


# --------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        ([], "frames"),
        ([b""], "checksum"),
        ([b"\0\0\0"], "checksum"),
        ([msgpack.packb([2])], "checksum"),
        ([header_frame(2) + b"\0"], "checksum"),
        ([with_crc(b"")], "not-msgpack"),
        ([with_crc(b"\xc1")], "not-msgpack"),
        ([with_crc(b"\x90")], "not-msgpack"),
        ([with_crc(b"\x01")], "not-msgpack"),
        ([with_crc(b"\x80")], "not-msgpack"),
        ([*frames(2), b""], "frames"),
        (frames(2) + frames(2), "frames"),
        (frames(999), "unknown-packet"),
        (frames(None), "unknown-packet"),
        (frames(True, "x"), "unknown-packet"),  # noqa: FBT003 - True == 1, but is no number
        (frames(2.0), "unknown-packet"),
        (frames([2]), "unknown-packet"),
        (frames(10, 1), "missing-field"),
        (frames(10, True, ID), "type"),  # noqa: FBT003 - True == 1, but is no number
        (frames(10, 1.0, ID), "type"),
        (frames(10, None, ID), "type"),
        (frames(10, -1, ID), "bounds"),
        (frames(10, 2**32, ID), "bounds"),
        (frames(10, 1, "12345678"), "type"),
        (frames(10, 1, b"1234567"), "bounds"),
        (frames(10, 1, msgpack.ExtType(5, ID)), "type"),
        (frames(10, 1, msgpack.Timestamp(1, 0)), "type"),
        (frames(10, 1, ID, {}), "type"),
        (frames(10, 1, ID, [7]), "type"),
        (frames(10, 1, ID, [[]]), "missing-field"),
        (frames(10, 1, ID, [[ID, 200, 0]]), "bounds"),
        (frames(10, 1, ID, [[ID, 1, 0, ID, "", ["a"] * 17]]), "bounds"),
        (frames(10, 1, ID, [[ID, 1, 0, ID, "", [""]]]), "bounds"),
        (frames(10, 1, ID, [[ID, 1, 0, ID, "", [b"a"]]]), "type"),
        (frames(10, 1, ID, [[ID, 1, 0]] * 65_537), "bounds"),
        (frames(22, "q", 65_536, ID), "bounds"),
        (frames(1, "m", ID, 1, "é" * 127, [], 1, 1), None),
        (frames(1, "m", ID, 1, "é" * 128, [], 1, 1), "bounds"),
        (frames(1, "m", ID, 1, "n", [], 2, 1), "order"),
        (frames(1, "m", ID, 1, "n", [], 1, 1, 1), "type"),
        ([with_crc(b"\x94\x16\xa1\xff\x00\xc4\x08" + ID)], "not-msgpack"),
        (frames(21, "q", 0, [[ID, 5, 4]], 1), "order"),
        (frames(21, "q", 0, [[ID, 0, 4]], 1), "bounds"),
        (frames(20, "q", 0, 0, [ID, 1, 1, 0]), "frames"),
    ],
)
def test_a_malformed_packet_is_refused_with_its_reason(
    packet: list[bytes], reason: str | None
) -> None:
    if reason is None:
        decode(packet)
    else:
        assert reason_of(packet) == reason


@pytest.mark.parametrize("name", ["", "a" * 256, "é" * 128, "a\nb", "\x7f", "a\x85b", "\x00"])
def test_a_bad_queue_name_is_refused(name: str) -> None:
    assert reason_of(frames(22, name, 0, ID)) in {"queue-name", "bounds"}


@pytest.mark.parametrize("name", ["a", "a" * 255, "é" * 127, "a b", "队列", "a\u00a0b"])
def test_a_queue_name_of_any_script_is_taken(name: str) -> None:
    assert decode(frames(22, name, 0, ID)) == Gap(name, 0, ID)


def test_only_a_question_for_all_queues_has_an_empty_name() -> None:
    assert decode(frames(50, 1, "")) == StatsRequest(1, "")
    assert reason_of(frames(50, 1, "a\tb")) == "queue-name"


def publish(first: int, count: int, *bodies: bytes, size: int = 1) -> list[bytes]:
    header = header_frame(20, "q", 0, 0, [ID, first, count, size])
    return [header, PackedBodies.from_bodies(list(bodies)).blob]


def test_a_batch_that_counts_its_bodies_wrong_is_refused() -> None:
    assert isinstance(decode(publish(1, 2, b"a", b"b")), Publish)
    assert reason_of(publish(1, 3, b"a", b"b")) == "bodies"
    assert reason_of(publish(1, 1, b"a", b"b")) == "bodies"


def test_a_batch_beyond_the_last_seq_or_of_an_absurd_size_is_refused() -> None:
    decode(publish(2**63 - 2, 1, b"a"))
    assert reason_of(publish(2**63 - 2, 2, b"a", b"b")) == "bounds"
    assert reason_of(publish(2**63, 1, b"a")) == "bounds"
    assert reason_of(publish(1, 1, b"a", size=2**32)) == "bounds"


@pytest.mark.parametrize(("place", "each"), [(6, 8), (7, 16)], ids=["keys", "ids"])
def test_a_batch_with_hashes_for_another_number_of_messages_is_refused(
    place: int, each: int
) -> None:
    def with_hashes(size: int) -> list[bytes]:
        columns: list[object] = [0, 0, 0, [], 0, b"", b""]
        columns[place - 1] = bytes(size)
        header = header_frame(20, "q", 0, 0, [ID, 1, 2, 1, *columns])
        return [header, PackedBodies.from_bodies([b"a", b"b"]).blob]

    assert isinstance(decode(with_hashes(2 * each)), Publish)
    for size in (1, each, 2 * each + 1, 3 * each):
        assert reason_of(with_hashes(size)) == "bounds"


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"\x94\x92\xc4\x01a",
        msgpack.packb([[b"a", b"b"], bytes(8), None]),
        msgpack.packb([[b"a", "b"], bytes(8), None, None]),
        msgpack.packb([[b"a", b"b"], bytes(7), None, None]),
        msgpack.packb([[b"a", b"b"], bytes(8), b"\0", None]),
        msgpack.packb([[b"a", b"b"], bytes(8), None, [None]]),
        msgpack.packb([[b"a", b"b"], bytes(8), None, [None, 1]]),
        msgpack.packb([[b"a", b"b"], bytes(8), None, [None, {b"k": 1}]]),
    ],
)
def test_a_frame_of_bodies_that_is_none_is_refused_before_the_core_sees_it(blob: bytes) -> None:
    header, _ = publish(1, 2, b"a", b"b")
    assert reason_of([header, blob]) == "bodies"


@every_packet
def test_one_flipped_bit_in_any_frame_is_refused(cls: type[Packet]) -> None:
    for sample in (least(cls), full(cls)):
        frames = encode(sample)
        for at, frame in enumerate(frames):
            for bit in range(8 * len(frame)):
                flipped = bytearray(frame)
                flipped[bit // 8] ^= 1 << bit % 8
                reason = reason_of([*frames[:at], bytes(flipped), *frames[at + 1 :]])
                assert reason in ({"checksum", "bodies"} if at else {"checksum"})


def test_one_wrong_body_among_many_has_its_batch_refused() -> None:
    header, blob = publish(1, 3, b"aaaa", b"bbbb", b"cccc")
    assert reason_of([header, blob.replace(b"bbbb", b"bbbB")]) == "checksum"


def test_the_crc_of_a_header_is_the_plain_one_little_endian() -> None:
    (frame,) = encode(Ping(1, ID))
    assert frame == b"\x93\x0a\x01\xc4\x08" + ID + bytes.fromhex("596f650c")


def test_stored_bodies_are_our_own_bug_when_they_are_sent() -> None:
    stored = StoredBodies(Space.OUTBOX, PartitionKey("q", 0), 1, 0, 1)
    with pytest.raises(AssertionError, match="stored bodies"):
        encode(Publish("q", 0, 0, Batch(ID, 1, 1, 1, stored)))


def test_a_reason_is_a_sentence_that_names_the_field() -> None:
    with pytest.raises(PacketError, match=r"Attach\.partition: a field is of another type"):
        decode(frames(30, "q", "0", ID, 1, 1, 1))
    assert decode(encode(Attach("q", 0, ID, 1, 1, 1, (RunField(ID, 1, 2),)))) is not None
    assert decode(encode(Settle("q", 0, ID, 1, 1, 1))) == Settle("q", 0, ID, 1, 1, 1)
