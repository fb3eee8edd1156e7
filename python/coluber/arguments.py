"""Names the argument of the wrong type in one sentence, where the native module would print a table of signatures."""

import functools
import inspect
import typing

_F = typing.TypeVar("_F", bound=typing.Callable[..., typing.Any])
_TABLE = "incompatible function arguments"  # how nanobind begins what it says
_WORDS = {bool: "True or False", int: "a whole number", float: "a number", str: "a str", type(None): "None"}
_LOW, _HIGH = -(2**63), 2**64 - 1
_WITHOUT_SIGN = ("first_stream", "seed", "stream")


def _fits(value, kind) -> bool:
    if kind is int:
        return hasattr(value, "__index__")
    return hasattr(value, "__float__") if kind is float else isinstance(value, kind)


def _wrong(name, value, hint):
    """The exception about one argument, None when it is of its type."""
    kinds = typing.get_args(hint) if typing.get_origin(hint) is typing.Union else (hint,)
    if not all(isinstance(kind, type) for kind in kinds):
        return None
    if not any(_fits(value, kind) for kind in kinds):
        wanted = " or ".join(_WORDS.get(kind, kind.__name__) for kind in kinds)
        return TypeError(f"{name}: expected {wanted}, got {type(value).__name__}")
    if int in kinds and isinstance(value, int) and not _LOW <= value <= _HIGH:
        return ValueError(f"{name}: expected a whole number of 64 bits, got {value}")
    if name in _WITHOUT_SIGN and isinstance(value, int) and value < 0:
        return ValueError(f"{name}: expected 0 or more, got {value}")
    return None


def names_wrong_types(function: _F) -> _F:
    """`function`, whose annotated arguments are looked at once the native module has refused them: no cost before.
    TypeError for another type, ValueError for a number that is too large or has a sign where none fits."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except TypeError as error:
            if _TABLE not in str(error):
                raise
            given = inspect.signature(function).bind(*args, **kwargs).arguments
            hints = typing.get_type_hints(function)
            found = [_wrong(name, value, hints[name]) for name, value in given.items() if name in hints]
            wrong = next(filter(None, found), None)
            if wrong is None:
                raise
        name = function.__qualname__.replace(".__init__", "").lstrip("_")
        raise type(wrong)(f"[{name}] {wrong}") from None

    return typing.cast(_F, call)
