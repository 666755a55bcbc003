"""How products are summed where a device computes in float16: the rule, and what the user says instead.

A sum is taken in one of three ways (``kernels/pixels.py``): all of it in float16, in chunks of float16 that
are added in float32, or all in float32. The rule takes

- ``float`` where weights are not int8: rounding those errs more than sums in float16 do,
- ``chunks`` where the reduction is longer than the profile's ``longest``,
- ``chunks`` where it is shorter and its weights speak against one sum (:func:`half_error` above
  ``most_half_error``),
- ``half`` for the others.

``--accumulate`` replaces the rule: for everything, or for the layers that a pattern names. ``float16`` is
the rule for weights of int8. Devices that do not read pixels sum everything in float32.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ddimcache.compiler.options import LayerChoice, chosen_kind
from ddimcache.compiler.target import DeviceProfile

HALF_ROUNDING = 2.0**-11
"""The largest relative error of one rounding to float16."""

_NAMES = {"half": "float16", "chunks": "chunks of float16 added in float32", "float": "float32"}


def half_error(matrix: np.ndarray) -> float:
    """The relative error, as a root of mean squares, of products with ``matrix`` [O, ...] summed in float16.

    For inputs that are independent and of one size, a sum of the first k products has the size of the first k
    weights' norm, and each addition rounds it by at most ``HALF_ROUNDING``, evenly spread. The error is thus
    between √(K/2) and √K times ``HALF_ROUNDING`` / √3: the more, the earlier the large weights come.
    """
    rows = matrix.reshape(matrix.shape[0], -1).astype(np.float64) ** 2
    so_far = np.cumsum(rows, axis=1)
    norms = so_far[:, -1]
    errors = np.divide(so_far.sum(axis=1), norms, out=np.zeros_like(norms), where=norms > 0)
    return HALF_ROUNDING * float(np.sqrt(errors.mean() / 3))


def _no_layer(key: str) -> str:
    return ""


@dataclass
class Accumulation:
    """Decides for ``profile`` and remembers what was decided.

    The last of ``choices`` that names a layer counts; ``layer_of`` tells the layer of a weight by its name in
    the store.
    """

    profile: DeviceProfile
    choices: Sequence[LayerChoice] = ()
    layer_of: Callable[[str], str] = _no_layer
    decided: dict[str, str] = field(default_factory=dict)
    """The way of summing by weight, and why."""

    def sums_of(
        self, key: str, shape: tuple[int, ...], matrix: Callable[[], np.ndarray], rounded: bool
    ) -> str | None:
        """How products with the weight ``key`` of ``shape`` [O, ..., C] are summed; None without pixels.

        ``rounded`` says that the weight is int8. ``matrix`` computes it in the order in which it is summed,
        and is called only where the rule asks for it.
        """
        table = self.profile.tiles.pixels
        kind = chosen_kind(self.choices, self.layer_of(key), "auto")
        in_half = kind == "float16" or (kind == "auto" and rounded)
        how = None if table is None else table.sums_of(shape[-1], int(np.prod(shape[1:-1])), in_half)
        if table is None or how is None:
            self.decided[key] = _NAMES["float"]
            return None
        why = "" if kind == "auto" else " as asked"
        if how == "half" and half_error(matrix()) > table.most_half_error:
            how, why = "chunks", why or " for their weights"
        self.decided[key] = _NAMES[how] + why
        return how

    def note(self, keys: Sequence[str]) -> str:
        """How many of the weights ``keys`` are summed how, in words."""
        counts = Counter(self.decided[key] for key in keys if key in self.decided)
        return ", ".join(f"{count} summed in {how}" for how, count in sorted(counts.items()))
