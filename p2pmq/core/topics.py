"""Topics and patterns: which of many patterns match a topic.

A topic is text in tokens, parted by dots: `site.7.temp`. A pattern is the
same with wildcards, as in NATS: `*` stands for one token, `>` for one or more
at the end. They lie in a trie by tokens, so that a match costs what its topic
is deep, not how many patterns there are.

The rule for both stands here alone: the user's calls and the rooms that take
packets ask it. First tokens that begin with "$" are the library's own.
"""

from __future__ import annotations

import unicodedata
from typing import Generic, TypeVar

from p2pmq.errors import TopicError

TOPIC_BYTES_MAX = 255
TOKENS_MAX = 32
"""Deeper than any topic needs; it bounds what one match may cost."""
ONE = "*"
REST = ">"
OWN = "$"
"""What the first token of the library's own topics begins with."""
RESPONDERS = "$r."
"""Whoever answers to a name is interested in the topic of the name behind this."""

Value = TypeVar("Value")


def check_topic(topic: str) -> None:
    """Pass, or raise TopicError: it is no topic to emit to.

    >>> check_topic("site.7.temp")
    """
    reason = _fault_of(topic, wildcards=False)
    if reason:
        raise TopicError(f"the topic {topic[:40]!r} cannot be emitted to: {reason}")


def check_pattern(pattern: str) -> None:
    """Pass, or raise TopicError: it is no pattern to subscribe to.

    >>> check_pattern("site.*.temp")
    >>> check_pattern("site.>")
    """
    reason = _fault_of(pattern, wildcards=True)
    if reason:
        raise TopicError(f"the pattern {pattern[:40]!r} cannot be subscribed to: {reason}")


def check_responder(name: str) -> None:
    """Pass, or raise TopicError: it is no name to answer to.

    >>> check_responder("prices.gold")
    """
    reason = _fault_of(responder_topic(name), wildcards=False, own=True)
    if reason:
        raise TopicError(f"nobody can answer to the name {name[:40]!r}: as {RESPONDERS}… {reason}")


def responder_topic(name: str) -> str:
    """The topic in which all who answer to a name are interested."""
    return RESPONDERS + name


def is_topic(text: str) -> bool:
    """Whether a peer may emit to it; the library's own topics among them."""
    return not _fault_of(text, wildcards=False, own=True)


def is_pattern(text: str) -> bool:
    """Whether a peer may be interested in it; the library's own topics among them."""
    return not _fault_of(text, wildcards=True, own=True)


def _fault_of(text: str, *, wildcards: bool, own: bool = False) -> str:
    """What is wrong, and what to do; empty: nothing."""
    fault = _fault_of_text(text)
    if fault:
        return fault
    tokens = text.split(".")
    if len(tokens) > TOKENS_MAX:
        return f"it has {len(tokens)} tokens; give it {TOKENS_MAX} at the most"
    if "" in tokens:
        return "a token is empty; give it one character at least between two dots"
    if not own and text.startswith(OWN):
        return f"first tokens that begin with {OWN!r} are the library's own; choose another"
    if ONE in text or REST in text:
        return _fault_of_wildcards(tokens, wildcards=wildcards)
    return ""


def _fault_of_text(text: str) -> str:
    """What no logs and no packet could bear, as in `names`."""
    if text.isascii() and text.isprintable() and 0 < len(text) <= TOPIC_BYTES_MAX:
        return ""  # nearly every topic, for the price of one look
    size = len(text.encode("utf-8", "surrogatepass"))
    if not 0 < size <= TOPIC_BYTES_MAX:
        return f"it has {size:,} bytes of UTF-8; give it 1 to {TOPIC_BYTES_MAX}"
    for character in text:
        if unicodedata.category(character) in {"Cc", "Cs"}:
            return f"take the control character U+{ord(character):04X} out: logs show topics"
    return ""


def _fault_of_wildcards(tokens: list[str], *, wildcards: bool) -> str:
    if not wildcards:
        return "a wildcard stands in it; give the topic itself, and leave wildcards to subscribers"
    for token in tokens:
        if token not in {ONE, REST} and (ONE in token or REST in token):
            return (
                f"the token {token!r} is only in part a wildcard; give {ONE!r} a token of its own"
            )
    if REST in tokens[:-1]:
        return f"{REST!r} stands for all that follows; give it the last place"
    return ""


class _Branch(Generic[Value]):
    """What lies below one token: `named` by the next token, `one` below a `*`.

    `here` are the values of the pattern that ends here, `rest` those of the one that goes on
    with a `>` and ends.
    """

    __slots__ = ("here", "named", "one", "rest")

    def __init__(self) -> None:
        self.named: dict[str, _Branch[Value]] = {}
        self.one: _Branch[Value] | None = None
        self.here: dict[Value, None] = {}
        self.rest: dict[Value, None] = {}

    @property
    def is_bare(self) -> bool:
        return not (self.named or self.one is not None or self.here or self.rest)


class Trie(Generic[Value]):
    """Values by pattern; a value may stand under many patterns, and under each but once.

    >>> trie = Trie[str]()
    >>> trie.insert("site.*.temp", "fan"), trie.insert("site.>", "log")
    (True, True)
    >>> sorted(trie.match("site.7.temp")), sorted(trie.match("site.7.door"))
    (['fan', 'log'], ['log'])
    >>> trie.remove("site.>", "log"), len(trie)
    (True, 1)
    """

    __slots__ = ("_count", "_root")

    def __init__(self) -> None:
        self._root: _Branch[Value] = _Branch()
        self._count = 0

    def __len__(self) -> int:
        """How many pairs of pattern and value it holds."""
        return self._count

    def insert(self, pattern: str, value: Value) -> bool:
        """Put a value under a pattern that is valid; False if it stands there already."""
        branch = self._root
        tokens = pattern.split(".")
        last = tokens.pop() if tokens[-1] == REST else ""
        for token in tokens:
            if token != ONE:
                below = branch.named.get(token)
                if below is None:
                    below = branch.named[token] = _Branch()
            else:
                if branch.one is None:
                    branch.one = _Branch()
                below = branch.one
            branch = below
        values = branch.rest if last else branch.here
        if value in values:
            return False
        values[value] = None
        self._count += 1
        return True

    def remove(self, pattern: str, value: Value) -> bool:
        """Take a value from under a pattern, and what is bare then; False if it stood not there."""
        path: list[tuple[_Branch[Value], str]] = []
        branch = self._root
        tokens = pattern.split(".")
        last = tokens.pop() if tokens[-1] == REST else ""
        for token in tokens:
            below = branch.one if token == ONE else branch.named.get(token)
            if below is None:
                return False
            path.append((branch, token))
            branch = below
        values = branch.rest if last else branch.here
        if value not in values:
            return False
        del values[value]
        self._count -= 1
        while path and branch.is_bare:
            branch, token = path.pop()
            if token == ONE:
                branch.one = None
            else:
                del branch.named[token]
        return True

    def match(self, topic: str) -> dict[Value, None]:
        """The values whose pattern matches the topic, each once; a dict of the caller's own."""
        found: dict[Value, None] = {}
        level = [self._root]
        for token in topic.split("."):
            below: list[_Branch[Value]] = []
            for branch in level:
                if branch.rest:
                    found.update(branch.rest)
                named = branch.named.get(token)
                if named is not None:
                    below.append(named)
                if branch.one is not None:
                    below.append(branch.one)
            if not below:
                return found
            level = below
        for branch in level:
            if branch.here:
                found.update(branch.here)
        return found
