"""Ordering keys as their users give them and get them back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from p2pmq import UsageError
from p2pmq.node.ordering import key_for_each, ordering_key
from tests.node.kit import node

KEYS: list[str | bytes | None] = ["customer-7", None, b"\xff\x00", "é", None, "x" * 255]


def test_a_text_and_its_utf_8_are_one_key_and_others_are_not() -> None:
    text, data, other = ordering_key("é"), ordering_key("é".encode()), ordering_key("e")
    assert text is not None
    assert data is not None
    assert other is not None
    assert text.hash == data.hash != other.hash
    assert (text.value, data.value) == ("é", b"\xc3\xa9")
    assert ordering_key(None) is None


@pytest.mark.parametrize(
    "key", ["", b"", "x" * 256, "é" * 128, "\ud800", 7, ["a"], bytearray(b"a")]
)
def test_what_can_be_no_key_is_refused(key: Any) -> None:  # noqa: ANN401  any wrong one
    with pytest.raises(UsageError, match="key"):
        ordering_key(key)


def test_one_key_for_all_or_one_for_each() -> None:
    same, each = key_for_each("same"), key_for_each(lambda body: body["customer"])
    assert same is not None
    assert each is not None
    assert same({"customer": "a"}) == ordering_key("same")
    assert each({"customer": "a"}) == ordering_key("a")
    assert each({"customer": None}) is None
    assert key_for_each(None) is None


@pytest.mark.parametrize("store", ["memory", "disk"])
async def test_each_message_tells_the_key_that_it_was_published_with(
    store: str, tmp_path: Path
) -> None:
    async with node("alone", store=store, data_dir=str(tmp_path)) as alone:
        for body, key in enumerate(KEYS):
            await alone.publish("q", body, key=key)
        await alone.queue("q").publish_many(range(6, 12), key=lambda body: KEYS[body - 6])
        await alone.queue("q").publish(12, key="last")
        await alone.publish_many("q", [13, 14], key="all")
        got = {message.body: message.key async for message in alone.drain("q")}
    assert got == dict(enumerate([*KEYS, *KEYS, "last", "all", "all"]))


async def test_a_key_that_cannot_be_is_refused_before_anything_is_published() -> None:
    async with node("alone") as alone:
        with pytest.raises(UsageError):
            await alone.publish("q", 1, key="")
        with pytest.raises(UsageError):
            await alone.publish_many("q", [1, 2], key=lambda body: body)
        assert (await alone.depth("q")).total == 0


async def test_messages_published_at_once_share_a_batch_whatever_their_keys() -> None:
    async with node("alone") as alone:
        published = [alone.publish("q", n, key=key) for n, key in enumerate(KEYS)]
        await asyncio.gather(*published)
        got = [(message.body, message.key) async for message in alone.drain("q")]
    assert sorted(got) == list(enumerate(KEYS))
