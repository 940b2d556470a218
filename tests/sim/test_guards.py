"""The guards: what code inside a simulation cannot reach, what it can, and that all is undone."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import gc
import logging
import os
import pickle
import random
import secrets  # noqa: F401  named in _CHANCE
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, date, datetime
from time import monotonic  # noqa: F401  named in _CLOCKS
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pmq.sim.guards import guards
from p2pmq.sim.loop import SimLoop
from p2pmq.sim.refuse import SimulationUsageError


@pytest.fixture
def loop() -> Iterator[SimLoop]:
    loop = SimLoop()
    yield loop
    loop.cancel_all()
    loop.close()


_T = TypeVar("_T")


def _run(loop: SimLoop, call: Callable[[], _T]) -> _T:
    async def main() -> _T:
        await asyncio.sleep(1.5)
        return call()

    return loop.run_until_complete(main())


def _inside(loop: SimLoop, call: Callable[[], _T], allow: Collection[str] = ()) -> _T:
    with guards(loop, allow=allow):
        return _run(loop, call)


# Source text, not functions: a reference taken here would be one from before the guards.
_CLOCKS = {
    "time.time": "time.time()",
    "time.time_ns": "time.time_ns()",
    "time.monotonic": "monotonic()",  # imported by name
    "time.perf_counter": "time.perf_counter()",
    "time.process_time_ns": "time.process_time_ns()",
    "time.localtime": "time.localtime()",
    "time.gmtime": "time.gmtime(None)",
    "time.strftime": "time.strftime('%H')",
    "datetime.now": "datetime.now(UTC)",  # imported by name
    "datetime.today": "dt.datetime.today()",
    "date.today": "date.today()",
}
_CHANCE = {
    "random.random": "random.random()",
    "random.shuffle": "random.shuffle([1, 2])",
    "random.Random": "random.Random()",
    "random.SystemRandom.random": "random.SystemRandom().random()",
    "os.urandom": "os.urandom(8)",
    "secrets.token_hex": "secrets.token_hex()",
    "secrets.randbelow": "secrets.randbelow(7)",
    "uuid.uuid4": "uuid.uuid4()",
    "uuid.uuid1": "uuid.uuid1()",
}
_OUTSIDE = {
    "time.sleep": "time.sleep(0)",
    "threading.Thread.start": "threading.Thread(target=len, args=[()]).start()",
    "socket.socket": "socket.socket().close()",
    "socket.getaddrinfo": "socket.getaddrinfo('127.0.0.1', 80)",
    "subprocess.Popen": "subprocess.run(['true'], check=True)",
    "os.system": "os.system('true')",
}
_CALLS = _CLOCKS | _CHANCE | _OUTSIDE


def _calling(name: str) -> Callable[[], object]:
    code = compile(_CALLS[name], __file__, "eval")
    return lambda: eval(code)


@pytest.mark.parametrize("name", _CALLS)
def test_user_code_is_refused(loop: SimLoop, name: str) -> None:
    call = _calling(name)
    with pytest.raises(SimulationUsageError) as caught:
        _inside(loop, call)
    assert caught.value.what == f"{name}()"
    assert "test_guards.py:" in caught.value.where
    assert [u.error for u in loop.unhandled] == [caught.value]
    call()  # outside it works


def test_the_message_says_what_to_use_instead(loop: SimLoop) -> None:
    with pytest.raises(SimulationUsageError, match=r"use asyncio.get_running_loop\(\).time\(\)"):
        _inside(loop, _calling("time.time"))
    with pytest.raises(SimulationUsageError, match=r"await asyncio.sleep\(...\)"):
        _inside(loop, lambda: time.sleep(0))
    with pytest.raises(SimulationUsageError, match=r"draw from a random.Random\(seed\)"):
        _inside(loop, lambda: random.randint(1, 6))


def test_a_handler_cannot_hide_a_refusal(loop: SimLoop) -> None:
    async def main() -> None:
        with contextlib.suppress(Exception):
            time.time()

    with guards(loop):
        loop.run_until_complete(main())
    assert isinstance(loop.unhandled[0].error, SimulationUsageError)


def test_log_records_are_stamped_with_virtual_time(
    loop: SimLoop, caplog: pytest.LogCaptureFixture
) -> None:
    _inside(loop, lambda: logging.getLogger("a.handler").warning("at work"))
    record = caplog.records[-1]
    assert record.created == loop.wall_time()
    assert dt.datetime.fromtimestamp(record.created, UTC).isoformat() == (
        "2026-01-01T00:00:01.500000+00:00"
    )


def test_packages_that_are_allowed_get_virtual_time_and_seeded_chance() -> None:
    def read() -> list[object]:
        return [
            time.time_ns(),
            time.monotonic(),
            time.strftime("%S", time.gmtime()),
            random.random(),
            os.urandom(4),
            random.Random().random(),
            uuid.uuid4(),
        ]

    own_package = __name__.partition(".")[0]
    first, second = (_inside(SimLoop(), read, allow=[own_package]) for _ in range(2))
    assert first == second
    assert first[:3] == [1_767_225_601_500_000_000, 1.5, "01"]


def test_allowed_packages_still_start_no_threads(loop: SimLoop) -> None:
    with pytest.raises(SimulationUsageError, match="Thread"):
        _inside(loop, _calling("threading.Thread.start"), allow=[__name__.partition(".")[0]])


def test_a_run_that_seeds_the_random_module_may_draw_from_it(loop: SimLoop) -> None:
    state = random.getstate()

    def draw() -> tuple[float, int]:
        random.seed(11)
        return random.random(), random.randrange(100)

    expected = random.Random(11)
    assert _inside(loop, draw) == (expected.random(), expected.randrange(100))
    assert random.getstate() == state, "the module's own state is not touched"
    with pytest.raises(SimulationUsageError):
        _inside(SimLoop(), lambda: random.seed(None))


def test_a_seeded_generator_and_conversions_of_given_times_are_free(loop: SimLoop) -> None:
    def work() -> None:
        assert random.Random(5).random() == random.Random(5).random()
        assert time.gmtime(0).tm_year == 1970
        assert time.strftime("%Y", time.gmtime(0)) == "1970"
        assert datetime.fromtimestamp(0, UTC).year == 1970
        assert uuid.UUID(int=random.Random(5).getrandbits(128), version=4).version == 4

    _inside(loop, work)
    assert loop.unhandled == []


def test_datetimes_made_inside_are_real_ones(loop: SimLoop) -> None:
    def make() -> list[datetime]:
        made = [
            datetime(2026, 1, 2, tzinfo=UTC),
            datetime.fromisoformat("2026-01-02T00:00:00+00:00"),
            dt.datetime.combine(date(2026, 1, 2), dt.time(tzinfo=UTC)),
        ]
        assert all(isinstance(moment, datetime) for moment in made)
        assert isinstance(made[0], date)
        assert issubclass(datetime, date)
        assert {datetime: "found"}[type(made[0])] == "found"
        assert pickle.loads(pickle.dumps(made)) == made
        return made

    for moment in _inside(loop, make):
        assert type(moment) is datetime
        assert moment == datetime(2026, 1, 2, tzinfo=UTC)


def test_the_guards_bite_only_while_the_loop_runs_and_in_its_thread(loop: SimLoop) -> None:
    asked, answers = threading.Event(), []

    def bystander() -> None:
        asked.wait(30)
        answers.append(time.time())

    thread = threading.Thread(target=bystander)
    with guards(loop):
        thread.start()
        before = time.perf_counter()

        async def main() -> None:
            asked.set()
            thread.join(30)

        loop.run_until_complete(main())
        assert time.perf_counter() >= before
        assert datetime.now(UTC).year > 2000
    assert answers
    assert loop.unhandled == []


def _everything() -> dict[tuple[str, str], int]:
    """The identity of every name that could be replaced, here and in the standard library."""
    owners: list[Any] = [time, random, os, socket, subprocess, threading, uuid, dt]
    owners += [threading.Thread, socket.socket, subprocess.Popen, random.Random]
    owners += [sys.modules[name] for name in sorted(sys.modules) if name.startswith("p2pmq")]
    found = {(o.__name__, name): id(value) for o in owners for name, value in vars(o).items()}
    own = {("own", name): id(value) for name, value in globals().items()}
    return found | own | {("gc", "enabled"): gc.isenabled(), ("gc", "n"): gc.get_freeze_count()}


def _fail_if(condition: bool) -> None:
    if condition:
        raise ZeroDivisionError


def test_everything_is_put_back_even_after_an_error(loop: SimLoop) -> None:
    time.strftime("%S")
    datetime.strptime("2026", "%Y")  # noqa: DTZ007  loads what it needs, before we look
    before = _everything()
    with pytest.raises(ZeroDivisionError), guards(loop):
        _fail_if(_everything() != before and not gc.isenabled())
    assert _everything() == before


def test_what_somebody_else_patched_meanwhile_is_left_to_them(
    loop: SimLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = time.time
    with guards(loop):
        monkeypatch.setattr(time, "time", lambda: 5.0)
        assert _run(loop, _calling("time.time")) == 5.0
    assert time.time() == 5.0
    monkeypatch.undo()
    assert time.time() >= 1_000_000.0, "their undo brings back our wrapper, which lets all through"
    monkeypatch.setattr(time, "time", real)
    time.time = real


def test_guards_are_up_once_in_a_process(loop: SimLoop) -> None:
    with guards(loop):
        second = guards(SimLoop())
        with pytest.raises(SimulationUsageError, match="one simulation after the other"), second:
            pytest.fail("must not get here")
        assert not gc.isenabled()
    assert gc.isenabled()


def test_garbage_is_collected_at_numbers_of_events(loop: SimLoop) -> None:
    freed_at: list[int] = []

    class Cycle:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            freed_at.append(loop.events)

    async def main() -> None:
        Cycle()
        for _ in range(60_000):
            await asyncio.sleep(0)

    with guards(loop):
        loop.run_until_complete(main())
    assert len(freed_at) == 1
    assert 50_000 <= freed_at[0] <= 52_000


@given(st.data())
def test_hypothesis_can_draw_while_a_simulation_runs(data: st.DataObject) -> None:
    loop = SimLoop()

    async def main() -> int:
        await asyncio.sleep(data.draw(st.integers(0, 5)))
        return data.draw(st.integers(1, 6))

    with guards(loop):
        assert 1 <= loop.run_until_complete(main()) <= 6
    assert loop.unhandled == []
    loop.close()
