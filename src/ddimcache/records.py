"""Frozen dataclasses to JSON values and back, strictly.

A record is a frozen dataclass whose fields are ``int``, ``float``, ``str``, ``bool``, ``None``,
``Literal``, ``X | None``, ``tuple[X, ...]``, ``dict[str, X]``, other records, or :data:`JsonValue`. Reading
refuses unknown keys, missing keys, and values of another type (``true`` is no integer, ``1.0`` is no
integer, NaN is no number), and says where: ``components.unet.functions.full.inputs[0].dtype``. Limits are
written with the type: ``Annotated[int, Limits(minimum=1)]``.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import types
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

Record = TypeVar("Record")
JsonValue = Any  # a value as the json module gives it; checked by whoever uses it


@dataclass(frozen=True)
class Limits:
    """What a number, text or list may be, beside its type.

    ``minimum`` and ``maximum`` bound a number, or the length of a list or text; ``pattern`` is a regular
    expression that a text (or every key of a dictionary) matches as a whole, ``meaning`` says it in words.
    """

    minimum: float | None = None
    maximum: float | None = None
    pattern: str | None = None
    meaning: str = ""

    def problem(self, value: Any) -> str | None:
        """Return what is wrong with a value of the right type, or None."""
        if self.pattern is not None:
            for text in value if isinstance(value, dict) else (value,):
                if re.fullmatch(self.pattern, text) is None:
                    return f"{text!r} is not {self.meaning or 'of the form ' + self.pattern}"
        size = len(value) if isinstance(value, str | tuple | dict) else value
        noun = "has length" if isinstance(value, str | tuple | dict) else "is"
        if self.minimum is not None and size < self.minimum:
            return f"{noun} {size}, below the least allowed, {self.minimum}"
        if self.maximum is not None and size > self.maximum:
            return f"{noun} {size}, above the most allowed, {self.maximum}"
        return None


class RecordProblem(ValueError):
    """A JSON value does not fit its record; ``where`` is the dotted path to it, empty for the whole."""

    def __init__(self, where: str, what: str) -> None:
        self.where = where
        self.what = what
        super().__init__(f"{where}: {what}" if where else what)


def from_json(kind: type[Record], value: JsonValue) -> Record:
    """Read a record of type ``kind`` from a JSON value; raises :class:`RecordProblem` at the first misfit."""
    return _read(kind, value, "")


def to_json(value: Any) -> JsonValue:
    """Return the JSON value of a record (dictionaries, lists, texts, numbers, None)."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _name(value: JsonValue) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _read_record(kind: Any, value: JsonValue, where: str) -> Any:
    _expect(isinstance(value, dict), where, f"expected an object, found {_name(value)}")
    hints = _hints(kind)
    required = {
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    for key in value:
        _expect(key in hints, where, f"unknown key {key!r}")
    for key in hints:
        _expect(key in value or key not in required, where, f"key {key!r} is missing")
    fields = {key: _read(hints[key], item, f"{where}.{key}" if where else key) for key, item in value.items()}
    return kind(**fields)


def _read_scalar(kind: Any, value: JsonValue, where: str) -> Any:
    if kind is float:
        good = isinstance(value, int | float) and not isinstance(value, bool)
        _expect(good and abs(value) < 1e300, where, f"expected a finite number, found {_name(value)}")
        return float(value)
    words = {int: "a whole number", str: "a text", bool: "true or false", types.NoneType: "null"}
    found = repr(value) if isinstance(value, float) else _name(value)
    _expect(type(value) is kind, where, f"expected {words[kind]}, found {found}")
    return value


def _read(kind: Any, value: JsonValue, where: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin is Annotated:
        result = _read(arguments[0], value, where)
        for limits in arguments[1:]:
            problem = limits.problem(result) if result is not None else None
            _expect(problem is None, where, problem or "")
        return result
    if origin is Literal:
        good = any(type(value) is type(choice) and value == choice for choice in arguments)
        choices = ", ".join(map(str, arguments))
        _expect(good, where, f"{value!r} is none of: {choices}")
        return value
    if origin in (Union, types.UnionType):
        if value is None and types.NoneType in arguments:
            return None
        [other] = [argument for argument in arguments if argument is not types.NoneType]
        return _read(other, value, where)
    if origin is tuple:
        _expect(isinstance(value, list), where, f"expected a list, found {_name(value)}")
        if arguments[-1] is not Ellipsis:
            _expect(
                len(value) == len(arguments), where, f"expected {len(arguments)} items, found {len(value)}"
            )
            pairs = zip(arguments, value, strict=True)
        else:
            pairs = zip([arguments[0]] * len(value), value, strict=True)
        return tuple(_read(item_kind, item, f"{where}[{i}]") for i, (item_kind, item) in enumerate(pairs))
    if origin is dict:
        _expect(isinstance(value, dict), where, f"expected an object, found {_name(value)}")
        return {
            key: _read(arguments[1], item, f"{where}.{key}" if where else key) for key, item in value.items()
        }
    if dataclasses.is_dataclass(kind):
        return _read_record(kind, value, where)
    return _read_scalar(kind, value, where)


def _expect(condition: bool, where: str, what: str) -> None:
    if not condition:
        raise RecordProblem(where, what)


def loads(text: str | bytes) -> JsonValue:
    """Read JSON strictly: no key twice, no NaN, nothing infinite, no depth without end.

    Raises :class:`RecordProblem` whose message begins with what is wrong.
    """
    try:
        value = json.loads(
            text, object_pairs_hook=_no_duplicates, parse_constant=_finite, parse_float=_finite
        )
        # Escapes can name half a character, which no file or terminal takes.
        json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeEncodeError as error:
        raise RecordProblem("", f"not JSON: half a pair of surrogates ({error.reason})") from error
    except RecordProblem:
        raise
    except (ValueError, RecursionError) as error:
        raise RecordProblem("", f"not JSON: {error}") from error


def _no_duplicates(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    result: dict[str, JsonValue] = {}
    for key, value in pairs:
        _expect(key not in result, "", f"key {key!r} appears twice in one object")
        result[key] = value
    return result


def _finite(text: str) -> float:
    value = float(text)
    _expect(math.isfinite(value), "", f"{text} is not a finite number")
    return value
