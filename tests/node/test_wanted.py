"""What a node is interested in: counted, told once a round, and bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from p2pmq.core.events import Event, InterestsRequested
from p2pmq.core.packets.emitting import PATTERN_BYTES_MAX, PATTERNS_MAX
from p2pmq.errors import SubscriptionLimitError
from p2pmq.node.wanted import Wanted
from tests.runtime.kit import advance, virtual_loop


class Scene:
    def __init__(self, wanted: Wanted, fed: list[Event], turn: Callable[[], None]) -> None:
        self.wanted = wanted
        self._fed = fed
        self._turn = turn

    def told(self) -> list[Event]:
        """What the core was told by the end of the round."""
        self._turn()
        told = list(self._fed)
        self._fed.clear()
        return told


@pytest.fixture
def scene() -> Iterator[Scene]:
    with virtual_loop() as loop:
        fed: list[Event] = []
        yield Scene(Wanted(fed.append, loop), fed, lambda: advance(loop, 0.001))


def test_the_changes_of_one_round_are_told_as_one(scene: Scene) -> None:
    scene.wanted.add(("a", "b"))
    scene.wanted.add(("c",))
    assert scene.told() == [InterestsRequested(("a", "b", "c"))]
    scene.wanted.drop(("a",))
    scene.wanted.add(("d",))
    assert scene.told() == [InterestsRequested(("d",), ("a",))]


def test_a_pattern_is_told_when_the_first_wants_it_and_when_the_last_does_not(
    scene: Scene,
) -> None:
    scene.wanted.add(("a",))
    scene.wanted.add(("a",))
    assert scene.told() == [InterestsRequested(("a",))]
    scene.wanted.drop(("a",))
    assert scene.told() == []
    scene.wanted.drop(("a",))
    assert scene.told() == [InterestsRequested((), ("a",))]


def test_what_comes_and_goes_within_a_round_is_not_told(scene: Scene) -> None:
    scene.wanted.add(("a",))
    scene.wanted.drop(("a",))
    assert scene.told() == []
    scene.wanted.add(("a",))
    scene.told()
    scene.wanted.drop(("a",))
    scene.wanted.add(("a",))
    assert scene.told() == []


def test_at_the_limit_of_patterns_an_error_says_so_and_nothing_is_counted(scene: Scene) -> None:
    scene.wanted.add(tuple(f"p.{number}" for number in range(PATTERNS_MAX)))
    with pytest.raises(SubscriptionLimitError, match=r"4,097 patterns .* stop subscriptions"):
        scene.wanted.add(("p.1", "one.more"))
    scene.wanted.add(("p.1",))
    scene.wanted.drop(("p.0",))
    scene.wanted.add(("one.more",))
    (event,) = scene.told()
    assert isinstance(event, InterestsRequested)
    assert len(event.added) == PATTERNS_MAX


def test_at_the_limit_of_bytes_too(scene: Scene) -> None:
    many = PATTERN_BYTES_MAX // 200
    scene.wanted.add(tuple(f"{number:0200}" for number in range(many)))
    with pytest.raises(SubscriptionLimitError):
        scene.wanted.add(("é" * 100,))
