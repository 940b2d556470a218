"""Stand-ins for `datetime` in a user's module, that refuse to read the clock.

`datetime.now` is C and its class cannot be patched, so the name in the
user's module is: it then means a class that makes real datetimes, counts
them as its instances, equals the real class, and differs only in `now`,
`utcnow` and `today`. (`type(x) is datetime` is the one thing it breaks.)

Invariant: no object made through a stand-in is of the stand-in's type, so
none outlives the run.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from types import ModuleType
from typing import Any

__all__ = ["calendar_facades"]

_Refuse = Callable[[str], None]


def calendar_facades(refuse: _Refuse) -> dict[int, Any]:
    """Stand-ins by the id of what they stand for: the module, and its two classes.

    `refuse(what)` raises if the clock must not be read now.
    """
    moment = _facade(dt.datetime, ("now", "utcnow", "today"), refuse)
    day = _facade(dt.date, ("today",), refuse)
    module = ModuleType("datetime", dt.__doc__)
    vars(module).update(vars(dt), datetime=moment, date=day)
    return {
        id(dt): module,
        id(dt.datetime): moment,
        id(dt.date): day,
    }


class _StandIn(type):
    real: type

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, cls.real)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, cls.real)

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is cls.real

    def __hash__(cls) -> int:
        return hash(cls.real)


def _facade(real: type, readers: tuple[str, ...], refuse: _Refuse) -> type:
    def construct(_: type, *given: Any, **named: Any) -> Any:  # noqa: ANN401  stands in for both classes
        return real(*given, **named)

    members: dict[str, Any] = {"real": real, "__new__": construct, "__doc__": real.__doc__}
    for name in readers:
        members[name] = classmethod(_reader(real, name, refuse))
    return _StandIn(real.__name__, (real,), members)


def _reader(real: type, name: str, refuse: _Refuse) -> Callable[..., Any]:
    def read(_: type, *given: Any, **named: Any) -> Any:  # noqa: ANN401  (as in _facade)
        refuse(f"{real.__name__}.{name}")
        return getattr(real, name)(*given, **named)

    return read
