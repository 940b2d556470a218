"""A scenario file is read as it is meant; what cannot be is refused with file, line and a hint."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from p2pmq.sim.chaos import KINDS
from p2pmq.sim.draw import drawn_scenario
from p2pmq.sim.scenario import FAULTS, LASTING, FaultSpec, Scenario
from p2pmq.sim.scenario_file import ScenarioError, dumped, keys_of, loaded, parsed
from p2pmq.sim.toml_lines import line_of

GOOD = """\
about = "a story"
duration = "40s"

[nodes]
names = ["shop", "bank", "depot"]
zones = { east = ["shop"], west = ["bank", "depot"] }

[links]
latency = ["1ms", "20ms"]

[[publishers]]
on = "shop"
queues = "orders"

[consumers]
on = "zone west"
queues = ["orders", "letters"]

[[faults]]
at = "10s"
what = "partition"
groups = [["shop"], ["others"]]
for = "5s"

[[faults]]
at = "20s"
what = "crash"
hosts = "owner of orders"

[liveness]
core = ["bank", "depot"]

[[liveness.faults]]
at = "1s"
what = "pause"
hosts = "shop"

[expect]
duplicates_max = 3
"""


def line_with(text: str, part: str) -> int:
    return next(n for n, line in enumerate(text.splitlines(), 1) if part in line)


def test_a_file_is_read_into_plain_data() -> None:
    scenario = parsed(GOOD)
    assert scenario.nodes.all == ("shop", "bank", "depot")
    assert scenario.nodes.zone_of("depot") == "west"
    assert scenario.links[0].latency_ms == (1, 20)
    assert scenario.queues == ("orders", "letters")
    assert [fault.what for fault in scenario.faults] == ["partition", "crash"]
    assert scenario.faults[0].groups == (("shop",), ("others",))
    assert scenario.liveness is not None
    assert scenario.liveness.faults[0].hosts == ("shop",)
    assert scenario.expect.duplicates_max == 3


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("latency =", "latancy =", "unknown key 'latancy' in [links]: did you mean 'latency'?"),
        ('"20ms"', '"20"', "latency = '20' has no unit that fits: write a number and one of"),
        ('on = "shop"', 'on = "shp"', "'shp' is no node: did you mean 'shop'?"),
        ('"zone west"', '"zone wst"', "'zone wst' is no zone: did you mean 'zone west'?"),
        ("owner of orders", "owner of ordrs", "nobody uses this queue: did you mean 'orders'?"),
        ('"crash"', '"crsh"', "what = 'crsh' is unknown: did you mean 'crash'?"),
        ('for = "5s"', 'hosts = "bank"', "the fault 'partition' has no key 'hosts'"),
        ('hosts = "shop"', 'at_ = "1s"', "unknown key 'at_' in [liveness.faults]"),
        ('core = ["bank", "depot"]', 'core = ["bnk"]', "core names 'bnk', which is no node"),
        ('at = "20s"', 'at = "50s"', "at = '50s' is after the scenario's duration of 40s"),
        ('"orders", "letters"', '"orders", ""', "queue name"),
        ('on = "shop"', "groups = true", "groups = true needs a share that `emits`"),
        ("duplicates_max", "duplicate_max", "did you mean 'duplicates_max'?"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(right: str, wrong: str, message: str) -> None:
    text = GOOD.replace(right, wrong)
    with pytest.raises(ScenarioError, match=re.escape(message)) as refused:
        parsed(text, "simulations/x.toml")
    line = line_with(text, wrong)
    assert str(refused.value).startswith(f"simulations/x.toml:{line}: ")
    assert refused.value.line == line


def test_a_queue_is_declared_once() -> None:
    twice = GOOD + '\n[[declared]]\nqueues = "a"\n\n[[declared]]\nqueues = ["b", "a"]\n'
    with pytest.raises(ScenarioError, match="'a' is declared twice"):
        parsed(twice)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ('schedule = "61 * * * *"', "'61 * * * *' never ticks"),
        ('schedule = "* * * * *"\nmax_messages = 5', "may be too full for ticks"),
    ],
)
def test_a_schedule_must_tick_into_a_queue_that_has_room(wrong: str, message: str) -> None:
    with pytest.raises(ScenarioError, match=re.escape(message)):
        parsed(f"{GOOD}\n[declared]\n{wrong}\n")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('hosts = "owner of orders"', "the fault 'crash' needs the key 'hosts'"),
        ('names = ["shop", "bank", "depot"]', r"needs either `names` or a `count`|names"),
        ("[nodes]", "needs the key 'nodes'"),
    ],
)
def test_what_is_missing_is_named(change: str, message: str) -> None:
    text = GOOD.replace(change, "").replace("\nnames = []", "")
    if change == "[nodes]":
        text = 'duration = "1s"'
    with pytest.raises(ScenarioError, match=message):
        parsed(text)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ('names = ["a", "a"]', "a name twice"),
        ('names = ["a"]\nlate = "a"', "one at least must be there"),
        ('names = ["a", "b"]\nleaves = ["a", "b"]', "one at least must own"),
        ('names = ["a"]\nweights = { b = 2 }', "which is no node"),
        ('names = ["a"]\nversions = { a = [1, 9] }', r"write \[least, most\], of 1 to 3"),
        ('names = ["a"]\nversions = { a = [2] }', r"write \[least, most\], of 1 to 3"),
        ('count = 3\nnames = ["a"]', "either"),
        ("count = 0", "either"),
    ],
)
def test_nodes_that_cannot_be_are_refused(nodes: str, message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        parsed(f"[nodes]\n{nodes}\n")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ('what = "ring_of_majorities"', "needs 5 nodes"),
        ('what = "join"\nhosts = "n1"', r"name it in \[nodes\] late"),
        ('what = "partition"\ngroups = [["n1"], ["n1"]]', "a node twice"),
        ('what = "restart"\nhosts = "n1"\nfor = "1s"', "has no key 'for'"),
        ('what = "upgrade"\nhosts = "n1"\nversions = [2, 1]', r"write \[least, most\]"),
        ('what = "crash_during"\nhosts = "n1"\nduring = "lunch"', "'lunch' is unknown"),
    ],
)
def test_faults_that_cannot_be_are_refused(fault: str, message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        parsed(f'[nodes]\ncount = 3\n[[faults]]\nat = "1s"\n{fault}\n')


def test_what_is_no_toml_is_refused_with_its_line() -> None:
    with pytest.raises(ScenarioError, match=r"f\.toml:2: no TOML") as refused:
        parsed("[nodes]\ncount = = 3\n", "f.toml")
    assert refused.value.line == 2


def test_values_are_overridden_from_the_command_line() -> None:
    scenario = parsed(GOOD, overrides=("duration=1m", "faults.0.for=7s", "nodes.profile=wan"))
    assert scenario.duration_ms == 60_000
    assert scenario.faults[0].for_ms == 7_000
    assert scenario.nodes.profile == "wan"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("duration", "write table.key=value"),
        ("nodes.nams=3", "did you mean 'names'"),
        ("duration=fast", "duration = 'fast' has no unit"),
        ("faults.7.for=1s", "write a number from 0 to 1"),
        ("duration.x=1", "there is no table before 'x'"),
    ],
)
def test_a_wrong_override_is_said_to_be_one(override: str, message: str) -> None:
    with pytest.raises(ScenarioError, match=re.escape(message)) as refused:
        parsed(GOOD, overrides=(override,))
    assert str(refused.value).startswith("--set: ")


def test_random_scenarios_read_as_they_were_written() -> None:
    for seed in range(80):
        scenario = drawn_scenario(seed)
        assert parsed(dumped(scenario, f"seed {seed}\n\nwith a comment")) == scenario


def test_a_file_reads_as_it_was_written_again(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text(dumped(parsed(GOOD)), encoding="utf-8")
    assert loaded(file) == parsed(GOOD)


def test_lines_of_items_in_long_arrays_are_found() -> None:
    text = 'a = [\n  [1],\n  # in between\n  [2,\n  3],\n  [4]\n]\nc = """\n[x]\n"""\nd = 1'
    assert [line_of(text, ("a", number)) for number in range(3)] == [2, 4, 6]
    assert line_of(text, ("a", 2, 0)) == 6
    assert line_of(text, ("d",)) == 11
    assert line_of(text, ("nowhere",)) == 1


def test_every_kind_of_fault_has_keys_that_exist() -> None:
    keys = keys_of(FaultSpec)
    for what, (needs, may, does) in FAULTS.items():
        assert set(needs) | set(may) <= set(keys), what
        assert does
    assert set(FAULTS) >= LASTING
    assert set(FAULTS) >= set(KINDS)


def test_the_docs_name_every_key_and_every_fault() -> None:
    docs = (Path(__file__).parents[2] / "docs" / "scenarios.md").read_text(encoding="utf-8")
    for key in keys_of(Scenario):
        assert f"`{key}`" in docs or f"[{key}]" in docs
    for hint in (
        "Nodes",
        "Links",
        "Declared",
        "Publishers",
        "Consumers",
        "Chaos",
        "Liveness",
        "Expect",
    ):
        module = __import__("p2pmq.sim.scenario", fromlist=[hint])
        for key in keys_of(getattr(module, hint)):
            assert f"`{key}`" in docs, (hint, key)
    for what in FAULTS:
        assert f"`{what}`" in docs
