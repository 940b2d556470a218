"""The API page, made of the docstrings: `make api`, or `python docs/api_page.py FILE`.

What a docstring says is said there alone; this only lays it out. Of the fields
of a data class it also takes the strings that stand below them, which Python
drops.
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any

import p2pmq
from p2pmq import blocking, config, errors
from p2pmq.blocking.taking import Taking
from p2pmq.node.message import Settleable

HEAD = """# The API

Made of the docstrings by `make api`; a test compares them. Times are in seconds where they are
arguments (`timeout=`, `ttl=`), and in milliseconds where a name ends in `_ms`; sizes are in bytes.
[queues.md](queues.md), [mailboxes.md](mailboxes.md), [outbox.md](outbox.md) and
[blocking.md](blocking.md) tell the story.
"""
GROUPS: dict[str, list[tuple[str, type]]] = {
    "Nodes and queues": [("p2pmq.Node", p2pmq.Node), ("p2pmq.Queue", p2pmq.Queue)],
    "Topics and requests": [
        (f"p2pmq.{name}", getattr(p2pmq, name))
        for name in ("Subscription", "Event", "Responder", "Request")
    ],
    "Messages": [
        (f"p2pmq.{name}", getattr(p2pmq, name))
        for name in ("Message", "MessageBatch", "DeadLetter", "Retained")
    ],
    "What calls return": [
        (f"p2pmq.{name}", getattr(p2pmq, name))
        for name in (
            "Receipt",
            "BulkReceipt",
            "QueueDepth",
            "QueueInfo",
            "BindingInfo",
            "ScheduleInfo",
            "MemberInfo",
            "Overflow",
            "MemberInfo",
            "Overflow",
            "RedriveReport",
        )
    ],
    "Without asyncio": [(f"p2pmq.blocking.{n}", getattr(blocking, n)) for n in blocking.__all__],
    "Configuration": [
        (f"p2pmq.config.{name}", getattr(config, name))
        for name in (
            *("NodeSettings", "Config", "Replication", "Retry", "OutboxPolicy", "Timing", "Limits"),
            "SwimConfig",
        )
    ],
    "Errors": [(f"p2pmq.errors.{name}", getattr(errors, name)) for name in errors.__all__],
}

BASES_TOLD = (Settleable, Taking)
"""Their docstrings are part of what a user should know of their subclasses."""


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for group, classes in GROUPS.items():
        parts.append(f"## {group}\n")
        for name, found in classes:
            parts += section(name, found)
    return "\n".join(parts)


def section(name: str, found: type) -> Iterator[str]:
    """One class: what it is, what it is made with, what it has."""
    yield f"### {name}\n"
    if issubclass(found, Exception):
        bases = ", ".join(f"`{base.__name__}`" for base in found.__bases__)
        yield f"Is a {bases}. {doc_of(found)}\n"
        return
    yield f"{doc_of(found)}\n"
    for base in BASES_TOLD:
        if issubclass(found, base):
            yield f"{doc_of(base)}\n"
    if is_dataclass(found):
        yield from field_rows(found)
    elif issubclass(found, tuple):
        yield f"Fields: {', '.join(f'`{f}: {t}`' for f, t in named_fields(found))}.\n"
    elif made_by_users(found):
        yield f"```python\n{name.rpartition('.')[2]}{signature_of(found.__init__)}\n```\n"
    for member_name, member in members_of(found):
        yield from entry(member_name, member)


def entry(name: str, member: object) -> Iterator[str]:
    """One method or property."""
    if isinstance(member, property):
        yield f"**`{name}`**: {doc_of(member)}\n"
        return
    assert callable(member)
    word = "async " if inspect.iscoroutinefunction(member) else ""
    yield f"```python\n{word}{name}{signature_of(member)}\n```\n"
    yield f"{doc_of(member)}\n"


def made_by_users(found: type) -> bool:
    """Whether a user calls the class: the others come from calls."""
    return found in (p2pmq.Node, blocking.Node)


def members_of(found: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties in the order of their definition, bases of ours first."""
    seen: dict[str, Any] = {}
    for base in reversed(found.__mro__):
        if base.__module__.startswith("p2pmq"):
            for name, member in vars(base).items():
                wanted = not name.startswith(("_", "on_"))
                if wanted and (inspect.isfunction(member) or isinstance(member, property)):
                    seen[name] = member
    yield from seen.items()


def doc_of(thing: object) -> str:
    """A docstring as paragraphs of Markdown; its examples as code."""
    text = inspect.getdoc(thing) or ""
    parts = []
    for paragraph in text.split("\n\n"):
        if paragraph.lstrip().startswith(">>>"):
            parts.append(f"```pycon\n{textwrap.dedent(paragraph)}\n```")
        else:
            parts.append(paragraph)
    return "\n\n".join(parts)


def signature_of(function: Any) -> str:  # noqa: ANN401  a function of any kind
    """The parameters as they stand in the source, one a line where they are many."""
    signature = inspect.signature(function)
    words, keyword_only = [], False
    for parameter in signature.parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
            keyword_only = True
            words.append("*")
        annotation = f": {parameter.annotation}"
        default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
        words.append(f"{parameter.name}{annotation}{default}")
    returned = "" if function.__name__ == "__init__" else f" -> {signature.return_annotation}"
    line = f"({', '.join(words)}){returned}"
    if len(line) <= 80:
        return line
    inner = "".join(f"    {word},\n" for word in words)
    return f"(\n{inner}){returned}"


def field_rows(found: type) -> Iterator[str]:
    """The fields of a data class as a table."""
    comments = dict(field_comments(found))
    columns = 4 if comments else 3 if any(f.default is not MISSING for f in of(found)) else 2
    yield row(["field", "type", "default", ""][:columns])
    yield row(["---"] * columns)
    for field in of(found):
        default = "" if field.default is MISSING else f"`{shown(field.default)}`"
        comment = " ".join(comments.get(field.name, "").split())
        yield row([f"`{field.name}`", f"`{field.type}`", default, comment][:columns])
    yield ""


def of(found: Any) -> tuple[Field[Any], ...]:  # noqa: ANN401  a data class
    """The fields of a data class."""
    return fields(found)


def row(cells: list[str]) -> str:
    """A row of a table."""
    escaped = [cell.replace("|", "\\|") for cell in cells]
    return f"| {' | '.join(escaped)} |"


def shown(value: object) -> str:
    """A default: numbers with underscores, other data classes by their name."""
    if is_dataclass(value):
        return f"{type(value).__name__}()"
    return f"{value:_}" if type(value) is int else repr(value)


def field_comments(found: type) -> Iterator[tuple[str, str]]:
    """The strings below the fields."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(found)))
    (definition,) = tree.body
    assert isinstance(definition, ast.ClassDef)
    for field, below in zip(definition.body, definition.body[1:], strict=False):
        match field, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str() as text)),
            ):
                yield name, text


def named_fields(found: type) -> Iterator[tuple[str, str]]:
    """The fields of a named tuple, with their types as written."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(found)))
    (definition,) = tree.body
    assert isinstance(definition, ast.ClassDef)
    for field in definition.body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            yield field.target.id, ast.unparse(field.annotation)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
