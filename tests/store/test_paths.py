"""The default directory: below one place, and another for every node."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from p2pmq.store.paths import default_data_dir, path_component

NAMES = st.text(max_size=300) | st.text("ab/.%~", max_size=6)


@given(name=NAMES)
@example("")
@example(".")
@example("..")
@example("../../etc")
@example("a\0b")
@example("x" * 255)
@example("é" * 127)
def test_any_name_is_one_component_that_stays_inside(name: str) -> None:
    component = path_component(name)
    assert component not in {"", ".", ".."}
    assert not component.startswith(".")
    assert "/" not in component
    assert "\0" not in component
    assert len(component.encode()) <= 200


@given(one=NAMES, other=NAMES)
@example("a/b", "a%2Fb")
@example("", "%")
@example("é" * 127, "é" * 126 + "è")
def test_different_names_have_different_components(one: str, other: str) -> None:
    assert (path_component(one) == path_component(other)) is (one == other)


def test_a_plain_name_stays_as_it_is() -> None:
    assert path_component("bank-2.eu_west") == "bank-2.eu_west"


def test_the_default_directory_follows_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_data_dir("shop", "bank") == Path("/data/p2pmq/shop/bank")
    assert default_data_dir("shop", "a/b") == Path("/data/p2pmq/shop/a%2Fb")
    monkeypatch.setenv("HOME", "/home/me")
    for ignored in ("relative", ""):
        monkeypatch.setenv("XDG_DATA_HOME", ignored)
        expected = Path("/home/me/.local/share/p2pmq/shop/bank")
        assert default_data_dir("shop", "bank") == expected
