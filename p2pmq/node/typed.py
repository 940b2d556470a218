"""Bodies as the user's own types: `consume("orders", type=Order)`.

What a body becomes is pydantic's to say, for dataclasses, TypedDicts and
annotations as well as for its own models. A body that does not fit can never
be handled: it becomes a dead letter, and comes back in no loop of retries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from p2pmq.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from p2pmq.node.message import Message


def converter_to(kind: Any) -> Callable[[object], Any]:  # noqa: ANN401 - any annotation
    """A function that makes a body such a thing, or raises ValueError. Raises UsageError."""
    try:
        from pydantic import TypeAdapter  # noqa: PLC0415 - an extra, and slow to import
        from pydantic.errors import PydanticUserError  # noqa: PLC0415 - as above
    except ImportError:
        raise UsageError(
            'typed bodies are made by pydantic, which is not installed: pip install "p2pmq[types]"'
        ) from None
    try:
        return TypeAdapter(kind).validate_python
    except PydanticUserError as error:
        raise UsageError(
            f"bodies cannot be made of type {kind!r}: give a dataclass, a pydantic model or "
            f"another annotation that pydantic knows ({error})"
        ) from error


def converted(message: Message, convert: Callable[[object], Any]) -> bool:
    """Whether the message's body fits, and then it is converted; else it is a dead letter."""
    try:
        message.body = convert(message.body)
    except ValueError as error:
        message.reject(f"the body does not fit: {error}")
        return False
    return True
