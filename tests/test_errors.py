"""Every error: one tree, and a sentence that says what happened, why, and what to do."""

import inspect
import pickle
from collections.abc import Iterator

import pytest

import p2pmq
from p2pmq import errors
from p2pmq.core.registry import DISK_FULL
from p2pmq.errors import P2PMQError, UsageError

RECEIPT = object()

EXAMPLES: dict[type[P2PMQError], P2PMQError] = {
    type(error): error
    for error in (
        errors.BodyTooLargeError(17_000_000, 16_777_216),
        errors.NotSerializableError(object(), "no such type"),
        errors.ClosedNodeError("billing", "closed"),
        errors.ForkedNodeError("billing", 4711, 4712),
        errors.PortTakenError("127.0.0.1:5555", "address already in use"),
        errors.InsecureListenError("0.0.0.0:5555"),
        errors.NotBoundError("a.>", "orders", DISK_FULL),
        errors.NotDeclaredError("orders", DISK_FULL),
        errors.NotScheduledError("nightly", DISK_FULL),
        errors.NotDeletedError("orders", "the queue's owner is away"),
        errors.NotPurgedError("orders", "the queue's owner is away"),
        errors.NotRedrivenError("orders.dlq", "orders", 3, DISK_FULL),
        errors.NameTakenError("billing", "default", "10.0.0.1:5555"),
        errors.NodeFailedError("billing", "KeyError('x')"),
        errors.LibraryVersionError("libzmq", "4.2.0", "4.3.3"),
        errors.DataDirectoryError("/data", "it is read-only"),
        errors.DataDirectoryLockedError("/data", 4711),
        errors.StoreFullError("/data"),
        errors.StoreCorruptError("/data", "2 checksums are wrong", bad=(1, 5)),
        errors.OutboxFullError(70_000_000, 67_108_864, 5_000),
        errors.QueueFullError("orders"),
        errors.NotCommittedError(
            receipt=RECEIPT, copies=0, wanted=1, waited_ms=5_000, away=["bank"]
        ),
        errors.StaleReceiptError("invoices"),
        errors.SubscriptionLimitError(5_000, 70_000, 4_096, 196_608),
        errors.NoResponderError("prices"),
        errors.OverloadedError("prices", "bank"),
        errors.RemoteError("prices", "bank", "KeyError", "'gold'"),
        errors.ResponderGoneError("prices", "bank"),
        errors.VersionRefusedError("billing", "it speaks 1 to 2", "10.0.0.1:5555"),
    )
}
RAISED_WITH_A_SENTENCE = {
    # Their one message is made where they are raised, and tested there.
    errors.NoOwnerError,
    errors.QueueNameError,
    errors.TopicError,
    errors.RequestTimeoutError,
    errors.NameLookupError,
}
BRANCHES = {P2PMQError, UsageError, errors.StoreError}
ADVICE = (
    *("use it", "choose", "give", "send", "stop", "raise", "upgrade", "listen", "move", "free"),
    *(
        "check",
        "publish less",
        "run a release",
        "start it again",
        "start a node",
        "settle",
        "is sent when",
    ),
)


def tree() -> Iterator[type[P2PMQError]]:
    for _, found in inspect.getmembers(errors, inspect.isclass):
        if issubclass(found, P2PMQError):
            yield found


def test_every_error_is_in_the_tree_and_known_to_this_test() -> None:
    for _, found in inspect.getmembers(errors, inspect.isclass):
        if found.__module__ == errors.__name__:
            assert issubclass(found, P2PMQError), found
    assert set(tree()) == EXAMPLES.keys() | RAISED_WITH_A_SENTENCE | BRANCHES


def test_every_error_has_a_docstring_and_is_exported() -> None:
    for found in tree():
        assert inspect.getdoc(found)
        assert found.__name__ in errors.__all__
        assert found.__name__.endswith("Error")


def test_the_errors_a_user_catches_are_at_the_top_of_the_package() -> None:
    for found in EXAMPLES.keys() - {errors.StoreFullError, errors.StoreCorruptError} | BRANCHES:
        assert found.__name__ in p2pmq.__all__
        assert getattr(p2pmq, found.__name__) is found


@pytest.mark.parametrize("error", EXAMPLES.values(), ids=lambda error: type(error).__name__)
def test_a_message_says_what_why_and_what_to_do(error: P2PMQError) -> None:
    text = str(error)
    assert len(text) > 60, "what happened, why, what to do"
    assert any(word in text for word in ADVICE), "what can be done about it"
    assert ":" in text or ";" in text, "the advice stands apart from the fact"
    assert not text.endswith(".")
    assert "\n" not in text
    assert text[0].islower() or text[0].isdigit(), "it follows the name of its type"


def test_a_message_names_the_facts() -> None:
    assert "17,000,000" in str(EXAMPLES[errors.BodyTooLargeError])
    assert "'object'" in str(EXAMPLES[errors.NotSerializableError])
    assert "4711" in str(EXAMPLES[errors.DataDirectoryLockedError])
    assert "4.2.0" in str(EXAMPLES[errors.LibraryVersionError])
    assert "5.0 s" in str(EXAMPLES[errors.NotCommittedError])
    assert "bank" in str(EXAMPLES[errors.NotCommittedError])
    assert "KeyError('x')" in str(EXAMPLES[errors.NodeFailedError])


def test_facts_are_there_for_programs_too() -> None:
    not_committed = EXAMPLES[errors.NotCommittedError]
    assert isinstance(not_committed, errors.NotCommittedError)
    assert not_committed.receipt is RECEIPT
    assert (not_committed.copies, not_committed.wanted, not_committed.waited_ms) == (0, 1, 5_000)
    corrupt = EXAMPLES[errors.StoreCorruptError]
    assert isinstance(corrupt, errors.StoreCorruptError)
    assert corrupt.bad == (1, 5)


def test_the_users_faults_are_also_value_errors_and_timeouts_timeouts() -> None:
    for found in (errors.QueueNameError, errors.BodyTooLargeError, errors.NotSerializableError):
        assert issubclass(found, UsageError)
        assert issubclass(found, ValueError)
    assert issubclass(errors.RequestTimeoutError, TimeoutError)


def test_a_branch_catches_its_leaves() -> None:
    with pytest.raises(errors.StoreError):
        raise errors.DataDirectoryLockedError("/data", None)
    with pytest.raises(errors.DataDirectoryError):
        raise errors.DataDirectoryLockedError("/data", None)


def test_the_reason_of_a_refusal_stands_in_place_of_who_is_away() -> None:
    error = errors.NotCommittedError(
        receipt=RECEIPT, copies=0, wanted=1, waited_ms=100, reason="the owner's disk is full"
    )
    assert "the owner's disk is full" in str(error)


def test_an_error_survives_being_raised_in_another_thread_or_logged() -> None:
    for error in EXAMPLES.values():
        assert pickle.dumps(str(error))
        assert repr(error).startswith(type(error).__name__)
