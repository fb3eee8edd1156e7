"""Names the argument of the wrong type in one sentence, where the native module would print a table of signatures."""

import ast
import functools
import inspect
import os
import re
import typing

from . import _native

_F = typing.TypeVar("_F", bound=typing.Callable[..., typing.Any])
_TABLE = "incompatible function arguments"  # how nanobind begins what it says
_WORDS = {
    bool: "True or False", int: "a whole number", float: "a number", str: "a str", type(None): "None",
    os.PathLike: "a path",
}
_SIGNATURE = re.compile(r"^    1\. \w+\((.*)\)(?: -> .*)?$", re.MULTILINE)
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


def _kind(annotation):
    """The type that nanobind writes as `annotation`; object where it is none of those that are checked here."""
    parts = [part.strip() for part in annotation.split("|")]
    if len(parts) > 1:
        return typing.Union[tuple(_kind(part) for part in parts)]
    known = {"bool": bool, "int": int, "float": float, "str": str, "None": type(None), "os.PathLike": os.PathLike}
    return known.get(annotation) or getattr(_native, annotation.rpartition(".")[2], object)


def _native_signature(table):
    """The signature that a table of one row shows, with types as annotations."""
    parameters = ast.parse(f"def f({_SIGNATURE.search(table).group(1)}): pass").body[0].args
    signature = []
    for arguments, defaults, kind in (
        (parameters.args, parameters.defaults, inspect.Parameter.POSITIONAL_OR_KEYWORD),
        (parameters.kwonlyargs, parameters.kw_defaults, inspect.Parameter.KEYWORD_ONLY),
    ):
        required = len(arguments) - len(defaults)
        for i, one in enumerate(arguments):
            optional = i >= required and defaults[i - required] is not None
            annotation = object if one.annotation is None else _kind(ast.unparse(one.annotation))
            default = None if optional else inspect.Parameter.empty
            signature.append(inspect.Parameter(one.arg, kind, annotation=annotation, default=default))
    return inspect.Signature(signature)


def _says_what_is_wrong(function, name):
    """`function` of the native module, under its public name."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except TypeError as error:
            if _TABLE not in str(error):
                raise
            signature = _native_signature(str(error))
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise TypeError(f"[{name}] {error}") from None
        hints = {parameter.name: parameter.annotation for parameter in signature.parameters.values()}
        found = [_wrong(argument, value, hints[argument]) for argument, value in given.items()]
        wrong = next(filter(None, found), None)
        if wrong is None:
            raise TypeError(f"[{name}] arguments: expected {signature}")
        raise type(wrong)(f"[{name}] {wrong}") from None

    return call


def name_wrong_types_of_natives():
    """The same for what of the native module is public as it is: methods of Array and State, and functions."""
    for name in (
        "array", "cuda_device_info", "memory_stats", "release_cached_memory", "set_num_threads", "synchronize",
    ):
        setattr(_native, name, _says_what_is_wrong(getattr(_native, name), name))
    for owner, names in (
        (_native.Array, ("to",)),
        (_native.State, ("to", "row", "set_row", "save", "load", "from_layers")),
    ):
        for name in names:
            function = _says_what_is_wrong(vars(owner)[name], f"{owner.__name__}.{name}")
            is_static = type(vars(owner)[name]).__name__ == "nb_func"
            setattr(owner, name, staticmethod(function) if is_static else function)
