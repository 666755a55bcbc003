"""The weights on their way from the model to the device's layout.

A weight is a name, a shape, a dtype and a way to compute it. Passes that change a weight (transpose,
quantise, pack) add a new name computed from the old one; nothing is computed until the bundle is
written, one weight at a time, so that the model is never in memory twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ddimcache.errors import CompileError


@dataclass(frozen=True)
class Weight:
    """One tensor: ``shape``, numpy ``dtype`` name, and ``compute`` which returns it."""

    shape: tuple[int, ...]
    dtype: str
    compute: Callable[[], np.ndarray]


class WeightStore:
    """Weights by name, the model's own and those that passes derived from them."""

    def __init__(self) -> None:
        self._weights: dict[str, Weight] = {}

    @classmethod
    def from_torch(cls, tensors: Mapping[str, object]) -> WeightStore:
        """A store over PyTorch tensors, which are read when they are needed and not copied."""
        store = cls()
        for name, tensor in tensors.items():
            shape = tuple(int(extent) for extent in tensor.shape)  # type: ignore[attr-defined]
            dtype = str(tensor.dtype).removeprefix("torch.")  # type: ignore[attr-defined]
            store.add(name, Weight(shape, dtype, lambda tensor=tensor: tensor.numpy()))  # type: ignore[misc]
        return store

    def __contains__(self, name: str) -> bool:
        return name in self._weights

    def __getitem__(self, name: str) -> Weight:
        return self._weights[name]

    def add(self, name: str, weight: Weight) -> str:
        """Adds ``weight`` under ``name`` unless that name is there already; returns the name."""
        self._weights.setdefault(name, weight)
        return name

    def array(self, name: str, where: str = "") -> np.ndarray:
        """Computes the weight called ``name``.

        Raises :class:`CompileError`, about ``where``, for one that is not finite as it is stored: those of a
        model are, in float32 (``frontend/weights.py``).
        """
        weight = self._weights[name]
        value = np.ascontiguousarray(weight.compute())
        if value.shape != weight.shape or value.dtype != np.dtype(weight.dtype):
            raise AssertionError(
                f"weight {name} is {value.dtype}{value.shape}, not {weight.dtype}{weight.shape}"
            )
        if value.dtype.kind == "f" and not np.isfinite([value.min(), value.max()]).all():
            raise CompileError(
                "holds numbers beyond 65504, the largest of float16",
                where=where or name,
                remedy="compile with --weights fp32 for a target that computes in float32, such as opencl",
            )
        return value
