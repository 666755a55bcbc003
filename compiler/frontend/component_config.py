"""Checks the values in a diffusers configuration file before a module is built from them.

diffusers builds modules from nearly anything and fails later, or not at all and computes something else. Here
every value that changes what is computed is looked at once, with a message that names file, key and value.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ddimcache.errors import FrontendError

# Sanity limits: beyond every published model of the family, and small enough to build a module on the meta
# device without exhausting memory.
WIDEST = 1 << 16
DEEPEST = 128


class ConfigReader:
    """One configuration file's values, each read with the check that belongs to it.

    Parameters
    ----------
    path : the file, for messages.
    values : the parsed object with the defaults of diffusers filled in.
    """

    def __init__(self, path: Path, values: Mapping[str, Any]) -> None:
        self.path = path
        self.values = values

    def wrong(self, key: str, reason: str, remedy: str | None = None) -> FrontendError:
        """Make the error that says why the value of ``key`` is refused."""
        shown = repr(self.values.get(key))
        if len(shown) > 100:
            shown = f"{shown[:100]}…"
        return FrontendError(f"`{key}` is {shown}, {reason}", where=self.path, remedy=remedy)

    def whole(self, key: str, minimum: int = 1, maximum: int = WIDEST) -> int:
        """Read a whole number in ``minimum … maximum``."""
        value = self.values.get(key)
        if type(value) is not int or not minimum <= value <= maximum:
            raise self.wrong(key, f"not a whole number from {minimum} to {maximum}")
        return value

    def number(self, key: str, above: float = -math.inf) -> float:
        """Read a finite number greater than ``above``."""
        value: Any = self.values.get(key)
        if type(value) not in (int, float) or not math.isfinite(value) or value <= above:
            raise self.wrong(
                key, "not a finite number" if above == -math.inf else f"not a number above {above:g}"
            )
        return float(value)

    def flag(self, key: str) -> bool:
        """Read true or false."""
        value = self.values.get(key)
        if type(value) is not bool:
            raise self.wrong(key, "neither true nor false")
        return value

    def one_of(self, key: str, allowed: Collection[Any]) -> Any:
        """Read a value that has to be in ``allowed``."""
        value = self.values.get(key)
        if not any(value == choice and type(value) is type(choice) for choice in allowed):
            choices = " or ".join(repr(choice) for choice in allowed)
            raise self.wrong(key, f"which is not supported; only {choices} is")
        return value

    def default_only(self, defaults: Mapping[str, Any]) -> None:
        """Refuse every key whose value is not the given one: variants that no stage after this one knows."""
        for key, default in defaults.items():
            value = self.values.get(key)
            if (
                value != default
                or (value is True) != (default is True)
                or (value is False) != (default is False)
            ):
                raise self.wrong(key, f"a variant that is not supported; only {default!r} is")

    def names(self, key: str, allowed: Collection[str]) -> list[str]:
        """Read a list of block types out of ``allowed``."""
        value = self.values.get(key)
        if not isinstance(value, list | tuple) or not 1 <= len(value) <= 8:
            raise self.wrong(key, "not a list of 1 to 8 block types")
        for name in value:
            if name not in allowed:
                raise self.wrong(
                    key, f"with unknown block type {name!r}; supported are {', '.join(sorted(allowed))}"
                )
        return list(value)

    def per_level(self, key: str, levels: int, maximum: int = WIDEST, single: bool = True) -> list[int]:
        """Read one positive whole number a level: a list, or where ``single`` one number for all levels."""
        value = self.values.get(key)
        if single and type(value) is int:
            value = [value] * levels
        if not isinstance(value, list | tuple):
            raise self.wrong(key, "not a whole number or a list of them" if single else "not a list")
        if len(value) != levels:
            raise self.wrong(key, f"a list of {len(value)} for {levels} block types")
        for item in value:
            if type(item) is not int or not 1 <= item <= maximum:
                raise self.wrong(key, f"with {item!r}, which is not a whole number from 1 to {maximum}")
        return list(value)

    def divides(self, divisor_key: str, divisor: int, key: str, widths: Collection[int]) -> None:
        """Refuse a width that ``divisor`` does not divide."""
        for width in widths:
            if width % divisor:
                raise self.wrong(divisor_key, f"which does not divide {width} in `{key}`")
