"""Responding: bounded places, no request twice, and every end frees what it held."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from p2pmq.core.effects import Counted, Effect, Handle, Notify, Send, StopHandling
from p2pmq.core.events import RequestHandled, RespondEnded, RespondRequested
from p2pmq.core.ids import JobId
from p2pmq.core.interests import Interests
from p2pmq.core.packets.publishing import Batch
from p2pmq.core.packets.requesting import (
    FAILED_NOBODY,
    FAILED_OVERLOADED,
    FAILED_RAISED,
    Reply,
    Request,
    RequestCancelled,
    RequestFailed,
)
from p2pmq.core.responding import Responding
from tests.core.kit import S1, S2, A, B, C, Texts

if TYPE_CHECKING:
    from collections.abc import Iterable

BODY = Texts(("?",))


def made(concurrency: int = 1, waiting_max: int = 1) -> Responding:
    """A's responders; B and C are members."""
    responding = Responding(A, Interests(1), dict.fromkeys((A, B, C)))
    responding.on_respond(RespondRequested("work", concurrency, waiting_max))
    return responding


def ask(number: int, session: bytes = S1, ttl_ms: int = 1_000, responder: str = "work") -> Request:
    return Request(responder, Batch(session, number, 1, 1, BODY, ttl_ms=ttl_ms))


def job(number: int, peer: bytes = B, session: bytes = S1) -> JobId:
    return JobId(peer, session, number)


def handle(number: int, peer: bytes = B, left_ms: int = 1_000) -> Handle:
    return Handle(job(number, peer), "work", BODY, left_ms)


def failed(number: int, reason: int, peer: bytes = B) -> Send:
    return Send(peer, RequestFailed(S1, number, reason))


def done(number: int, peer: bytes = B) -> RequestHandled:
    return RequestHandled(job(number, peer), Texts(("!",)), 1)


def counted(effects: Iterable[Effect]) -> list[str]:
    return [
        effect.notice.what
        for effect in effects
        if isinstance(effect, Notify) and isinstance(effect.notice, Counted)
    ]


def test_places_then_the_line_then_a_refusal() -> None:
    responding = made()
    assert responding.on_request(B, ask(1), 0) == [handle(1)]
    assert responding.on_request(B, ask(2), 0) == []
    refused = responding.on_request(B, ask(3), 0)
    assert refused[-1] == failed(3, FAILED_OVERLOADED)
    assert counted(refused) == ["requests_refused"]
    reply = Send(B, Reply(Batch(S1, 1, 1, 1, Texts(("!",)))))
    assert responding.on_handled(done(1), 400) == [reply, handle(2, left_ms=600)]
    assert len(responding.on_handled(done(2), 500)) == 1
    assert responding.next_deadline() is None


def test_an_error_of_a_handler_goes_to_its_caller() -> None:
    responding = made()
    responding.on_request(B, ask(1), 0)
    ended = RequestHandled(job(1), kind="KeyError", text="'x'")
    assert responding.on_handled(ended, 1) == [
        Send(B, RequestFailed(S1, 1, FAILED_RAISED, "KeyError", "'x'"))
    ]
    assert responding.on_handled(ended, 1) == [], "it has ended already"


def test_a_request_that_is_repeated_runs_once_also_when_it_has_ended() -> None:
    responding = made(concurrency=9)
    responding.on_request(B, ask(1), 0)
    assert counted(responding.on_request(B, ask(1), 0)) == ["requests_repeated"]
    responding.on_handled(done(1), 0)
    assert counted(responding.on_request(B, ask(1), 0)) == ["requests_repeated"]
    assert responding.on_request(C, ask(1), 0) == [handle(1, C)], "each counts by itself"
    new_process = responding.on_request(B, ask(1, session=S2), 0)
    assert new_process == [Handle(job(1, session=S2), "work", BODY, 1_000)]


def test_the_deadline_stops_a_handler_and_drops_who_waits_in_line() -> None:
    responding = made(waiting_max=2)
    responding.on_request(B, ask(1), 0)
    responding.on_request(B, ask(2, ttl_ms=500), 0)
    responding.on_request(B, ask(3, ttl_ms=5_000), 0)
    assert responding.next_deadline() == 500
    assert counted(responding.on_timeout(500)) == ["requests_expired"]
    assert responding.on_timeout(1_000)[-1] == StopHandling(job(1))
    assert responding.on_handled(RequestHandled(job(1)), 1_500) == [handle(3, left_ms=3_500)]


def test_a_stopped_handlers_place_is_free_only_when_it_has_ended() -> None:
    responding = made()
    responding.on_request(B, ask(1), 0)
    assert responding.on_cancelled(B, RequestCancelled(S1, 1)) == [StopHandling(job(1))]
    assert responding.on_cancelled(B, RequestCancelled(S1, 1)) == [], "once is enough"
    assert responding.on_request(B, ask(2), 0) == []
    assert responding.on_handled(RequestHandled(job(1)), 0) == [handle(2)]


def test_a_cancellation_that_overtakes_its_request_keeps_it_from_being_taken() -> None:
    responding = made()
    assert responding.on_cancelled(B, RequestCancelled(S1, 1)) == []
    assert counted(responding.on_request(B, ask(1), 0)) == ["requests_repeated"]


def test_who_is_gone_or_has_restarted_waits_for_nothing() -> None:
    responding = made(concurrency=2, waiting_max=9)
    for number, peer in enumerate((B, C, B, A), 1):
        responding.on_request(peer, ask(number), 0)
    assert responding.on_roster([C]) == [StopHandling(job(1))]
    assert responding.on_restarted(C) == [StopHandling(job(2, C))]
    assert responding.on_handled(RequestHandled(job(1)), 0) == [handle(4, A)], "3 is gone"


def test_a_name_that_is_answered_no_more_lets_handlers_end_and_refuses_the_rest() -> None:
    responding = made()
    responding.on_request(B, ask(1), 0)
    responding.on_request(B, ask(2), 0)
    assert responding.answers("work")
    assert responding.on_respond_ended(RespondEnded("work")) == [failed(2, FAILED_NOBODY)]
    assert responding.on_respond_ended(RespondEnded("work")) == []
    assert not responding.answers("work")
    assert responding.on_request(B, ask(3), 0) == [failed(3, FAILED_NOBODY)]
    assert isinstance(responding.on_handled(done(1), 0)[0], Send)


def test_requests_of_strangers_and_malformed_ones_are_not_taken() -> None:
    responding = made()
    stranger = b"stranger"
    effects = responding.on_request(stranger, ask(1), 0)
    assert counted(effects) == ["requests_of_strangers"]
    assert effects[-1] == failed(1, FAILED_NOBODY, stranger)
    responding.on_cancelled(stranger, RequestCancelled(S1, 2))
    assert not responding._recent
    two = Request("work", Batch(S1, 1, 2, 1, BODY, ttl_ms=1))
    for bad in (two, ask(1, ttl_ms=0)):
        assert counted(responding.on_request(B, bad, 0)) == ["requests_malformed"]
    assert responding.on_request(B, ask(1, responder="other"), 0) == [failed(1, FAILED_NOBODY)]


class RespondingMachine(RuleBasedStateMachine):
    """Requests come, repeat, are cancelled, expire and are handled, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.responding = made(concurrency=2, waiting_max=3)
        self.now = 0
        self.number = 0
        self.running: dict[JobId, bool] = {}
        self.started: set[JobId] = set()
        self.answered: set[JobId] = set()

    def take(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Handle(job_id):
                    assert job_id not in self.started, "handled twice"
                    self.started.add(job_id)
                    self.running[job_id] = False
                case StopHandling(job_id):
                    assert self.running[job_id] is False, "stopped twice, or not running"
                    self.running[job_id] = True
                case Send(peer, Reply(batch)):
                    self.answer(JobId(peer, batch.session, batch.first))
                case Send(peer, RequestFailed(session, number)):
                    self.answer(JobId(peer, session, number))
                case _:
                    assert isinstance(effect, Notify)

    def answer(self, job_id: JobId) -> None:
        assert job_id not in self.answered, "answered twice"
        self.answered.add(job_id)

    @rule(peer=st.sampled_from((A, B, C)), ttl_ms=st.integers(1, 900))
    def request(self, peer: bytes, ttl_ms: int) -> None:
        self.number += 1
        self.take(self.responding.on_request(peer, ask(self.number, ttl_ms=ttl_ms), self.now))

    @precondition(lambda self: self.number)
    @rule(peer=st.sampled_from((B, C)), data=st.data())
    def repeat(self, peer: bytes, data: st.DataObject) -> None:
        number = data.draw(st.integers(1, self.number))
        self.take(self.responding.on_request(peer, ask(number), self.now))

    @precondition(lambda self: self.number)
    @rule(peer=st.sampled_from((A, B, C)), data=st.data())
    def cancel(self, peer: bytes, data: st.DataObject) -> None:
        number = data.draw(st.integers(1, self.number))
        self.take(self.responding.on_cancelled(peer, RequestCancelled(S1, number)))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), well=st.booleans())
    def end_a_handler(self, data: st.DataObject, *, well: bool) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.running)))
        stopped = self.running.pop(job_id)
        ended = RequestHandled(job_id, BODY if well else None, 1)
        before = len(self.answered)
        self.take(self.responding.on_handled(ended, self.now))
        assert (len(self.answered) > before) is not stopped

    @rule(ms=st.integers(1, 500))
    def pass_time(self, ms: int) -> None:
        self.now += ms
        self.take(self.responding.on_timeout(self.now))

    @rule(alive=st.sets(st.sampled_from((B, C))))
    def roster(self, alive: set[bytes]) -> None:
        self.take(self.responding.on_roster(alive))

    @rule()
    def close_and_open(self) -> None:
        self.take(self.responding.on_respond_ended(RespondEnded("work")))
        if not self.running:
            self.responding.on_respond(RespondRequested("work", 2, 3))

    @invariant()
    def places_and_line_are_bounded(self) -> None:
        assert len(self.running) <= 2
        assert len(self.responding._jobs) <= 2 + 3
        assert set(self.running) <= set(self.responding._jobs)


TestResponding = RespondingMachine.TestCase
