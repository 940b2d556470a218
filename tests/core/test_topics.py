"""Topics: the trie finds what a naive matcher finds, and the rules refuse what they should."""

from __future__ import annotations

import doctest
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from p2pmq.core import topics
from p2pmq.core.topics import (
    TOKENS_MAX,
    TOPIC_BYTES_MAX,
    Trie,
    check_pattern,
    check_responder,
    check_topic,
    is_pattern,
    is_topic,
    responder_topic,
)
from p2pmq.errors import TopicError

TOKENS = st.sampled_from(["a", "b", "c", "é"])
TOPICS = st.lists(TOKENS, min_size=1, max_size=5).map(".".join)
PATTERNS = st.builds(
    lambda tokens, rest: ".".join([*tokens, *rest]),
    st.lists(TOKENS | st.just("*"), min_size=1, max_size=4),
    st.sampled_from([[], [">"]]),
) | st.just(">")


def matches(pattern: str, topic: str) -> bool:
    """The definition, token by token."""
    wanted, given_ = pattern.split("."), topic.split(".")
    if wanted[-1] == ">":
        head = wanted[:-1]
        return len(given_) > len(head) and matches_all(head, given_[: len(head)])
    return len(wanted) == len(given_) and matches_all(wanted, given_)


def matches_all(wanted: list[str], tokens: list[str]) -> bool:
    return all(w in {"*", t} for w, t in zip(wanted, tokens, strict=True))


class TrieMachine(RuleBasedStateMachine):
    """The trie beside a set of pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.trie: Trie[int] = Trie()
        self.pairs: set[tuple[str, int]] = set()

    @rule(pattern=PATTERNS, value=st.integers(0, 3))
    def insert(self, pattern: str, value: int) -> None:
        assert self.trie.insert(pattern, value) == ((pattern, value) not in self.pairs)
        self.pairs.add((pattern, value))

    @rule(pattern=PATTERNS, value=st.integers(0, 3))
    def remove(self, pattern: str, value: int) -> None:
        assert self.trie.remove(pattern, value) == ((pattern, value) in self.pairs)
        self.pairs.discard((pattern, value))

    @rule(data=st.data())
    def remove_what_is_there(self, data: st.DataObject) -> None:
        if self.pairs:
            pair = data.draw(st.sampled_from(sorted(self.pairs)))
            assert self.trie.remove(*pair)
            self.pairs.discard(pair)

    @rule(topic=TOPICS)
    def match(self, topic: str) -> None:
        found = self.trie.match(topic)
        assert set(found) == {value for pattern, value in self.pairs if matches(pattern, topic)}

    @invariant()
    def counts_its_pairs_and_keeps_nothing_when_empty(self) -> None:
        assert len(self.trie) == len(self.pairs)
        if not self.pairs:
            assert self.trie._root.is_bare


TestTrie = TrieMachine.TestCase


@pytest.mark.parametrize(
    ("pattern", "topic", "expected"),
    [
        ("a.*.c", "a.b.c", True),
        ("a.*.c", "a.b.b.c", False),
        ("a.>", "a.b", True),
        ("a.>", "a.b.c.d", True),
        ("a.>", "a", False),
        (">", "a", True),
        ("*", "a.b", False),
        ("*.>", "a.b", True),
        ("a", "a", True),
        ("a.b", "a", False),
    ],
)
def test_wildcards_mean_what_they_mean_in_nats(pattern: str, topic: str, expected: bool) -> None:
    trie: Trie[int] = Trie()
    trie.insert(pattern, 1)
    assert bool(trie.match(topic)) is expected is matches(pattern, topic)


def test_a_value_under_two_patterns_that_match_is_found_once() -> None:
    trie: Trie[str] = Trie()
    for pattern in ("a.*", "a.b", "a.>"):
        trie.insert(pattern, "x")
    assert list(trie.match("a.b")) == ["x"]


def test_a_star_in_a_topic_is_no_wildcard_to_the_trie() -> None:
    trie: Trie[int] = Trie()
    trie.insert("a.b", 1)
    assert not trie.match("a.*")


@pytest.mark.parametrize(
    "bad",
    ["", ".", "a.", ".a", "a..b", "x" * 256, "é" * 128, "a\nb", "a\x7f", "\ud800", "$r.prices"],
)
@pytest.mark.parametrize("check", [check_topic, check_pattern])
def test_what_is_no_topic_is_refused_with_advice(check: Callable[[str], None], bad: str) -> None:
    with pytest.raises(TopicError, match=r"give it|take the|choose"):
        check(bad)


def test_the_bounds_themselves_are_allowed() -> None:
    for good in ("x" * TOPIC_BYTES_MAX, ".".join("x" * TOKENS_MAX), "Grüße an alle.ok"):
        check_topic(good)
        check_pattern(good)
    with pytest.raises(TopicError, match="33 tokens"):
        check_topic(".".join("x" * (TOKENS_MAX + 1)))


@pytest.mark.parametrize("bad", ["a.>.b", ">.a", "a*", "a.b>", "a.**"])
def test_half_a_wildcard_is_no_pattern(bad: str) -> None:
    with pytest.raises(TopicError, match=r"wildcard|last place"):
        check_pattern(bad)
    assert not is_pattern(bad)


@pytest.mark.parametrize("pattern", ["*", ">", "a.*", "a.>", "*.*.x"])
def test_a_wildcard_is_no_topic(pattern: str) -> None:
    check_pattern(pattern)
    with pytest.raises(TopicError, match="leave wildcards to subscribers"):
        check_topic(pattern)


def test_the_librarys_own_topics_pass_between_nodes_only() -> None:
    assert is_topic("$r.prices")
    assert is_pattern("$r.prices")


@given(st.text(max_size=40))
def test_the_rules_never_raise_anything_else(text: str) -> None:
    assert is_topic(text) <= is_pattern(text)


def test_the_examples_in_the_docstrings_are_true() -> None:
    failed, tried = doctest.testmod(topics)
    assert tried
    assert not failed


def test_a_responders_name_is_a_topic_with_room_for_what_stands_before_it() -> None:
    for good in ("prices", "prices.gold", "$mine", "x" * (TOPIC_BYTES_MAX - 3)):
        check_responder(good)
        assert is_pattern(responder_topic(good))
    for bad in ("", "a.*", ">", "a..b", "x" * (TOPIC_BYTES_MAX - 2), "a\n"):
        with pytest.raises(TopicError, match="nobody can answer"):
            check_responder(bad)
