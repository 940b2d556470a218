"""A field of membership machines: they meet, lose one another and heal as whole nodes do."""

from __future__ import annotations

from functools import partial

import pytest

from p2pmq.sim.field import Field, formed


def test_machines_that_dial_one_of_them_come_to_know_all() -> None:
    field, took_ms = formed(20, seed=1)
    assert field.agree()
    assert took_ms < 10_000


def test_a_crash_is_noticed_by_all_and_timed() -> None:
    field, _ = formed(10, seed=2)
    field.run(5_000)
    victim = field.up[3]
    began = field.now
    field.crash(victim)
    took_ms = field.run_until(partial(field.none_knows, victim), 60_000)
    assert took_ms is not None
    deaths = field.deaths[victim.own.node_id]
    assert len(deaths) == 9
    assert began < deaths[0] <= began + took_ms


def test_a_newcomer_is_known_to_all_through_one_of_them() -> None:
    field, _ = formed(10, seed=3)
    newcomer = field.add((field.up[5],))
    assert field.run_until(partial(field.all_know, newcomer), 10_000) is not None


def test_halves_part_and_meet_again() -> None:
    field, _ = formed(8, seed=4)
    halves = field.machines[:4], field.machines[4:]
    field.split(*halves)
    field.run(60_000)
    assert all(machine.swim.alive_count == 4 for machine in field.machines)
    field.heal()
    assert field.run_until(field.agree, 60_000) is not None


def test_lossy_links_kill_nobody() -> None:
    field, _ = formed(10, seed=5, loss=0.1)
    field.run(60_000)
    assert not field.deaths


def test_what_is_sent_is_counted_only_when_asked() -> None:
    field, _ = formed(5, seed=6)
    assert field.sent.packets == 0
    field.counting = True
    field.run(10_000)
    assert field.sent.packets >= 2 * 5 * 8  # a ping and its answer a second
    assert field.sent.bytes > 20 * field.sent.packets


def test_one_seed_gives_one_run() -> None:
    def story(seed: int) -> tuple[int, int, dict[bytes, list[int]]]:
        field, took_ms = formed(12, seed, loss=0.2)
        field.crash(field.up[4])
        field.run(60_000)
        return took_ms, field.events, field.deaths

    assert story(7) == story(7)
    assert story(7) != story(8)


def test_who_never_meets_is_reported() -> None:
    field = Field(9)
    field.add()
    field.add()
    assert field.run_until(field.agree, 1_000) is None
    with pytest.raises(TimeoutError, match="2 machines did not agree within 1 s"):
        formed(2, seed=9, loss=1.0, within_ms=1_000)
