"""Weights as the kernels read them: rounded to int8 or fp16 and packed into panels.

No pass by itself: what passes that lower matrix products share. New weights are free variables of the
function under rewriting, named after entries of the weight store; :func:`close` makes them parameters, and
``BundleWeights`` collects them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from tvm import relax

from ddimcache.compiler.compress.quantize import group_of, is_sensitive, most_of_group, quantize, scale_of
from ddimcache.compiler.compress.weights import Weight, WeightStore
from ddimcache.compiler.target import DeviceProfile
from ddimcache.kernels.matmul import kernel as matmul_kernel
from ddimcache.kernels.pixels import PixelSum
from ddimcache.kernels.workload import SIZES, Workload

_CHANNELS = {family: names.index("channels") for family, names in SIZES.items() if "channels" in names}


class WeightPacker:
    """Derives packed weights in ``store`` for ``profile``; ``weights`` is a ``WeightsKind``.

    ``keys`` maps variables to the store's names and grows; ``lowered`` collects the names of the weights
    that became packed, and ``scales`` how many of them have which scales.
    """

    def __init__(
        self,
        store: WeightStore,
        profile: DeviceProfile,
        weights: str,
        keys: dict[relax.Var, str],
        lowered: set[str],
    ) -> None:
        self.store = store
        self.profile = profile
        self.weights = weights
        self.keys = keys
        self.lowered = lowered
        self.widths: dict[str, int] = {}
        self.most_of_group = most_of_group(weights)
        self.scales: dict[str, set[str]] = {}

    def variable(self, key: str) -> relax.Var:
        """A new free variable for the store's weight ``key``."""
        weight = self.store[key]
        variable = relax.Var(key, relax.TensorType(weight.shape, weight.dtype))
        self.keys[variable] = key
        return variable

    def pixel_sum(self, shape: tuple[int, ...]) -> PixelSum | None:
        """How products with weights of ``shape`` [O, ..., C] are summed where they are read as pixels.

        ``None`` where they are not. Products of a group of weights are summed before they are scaled, so
        groups are chunks or made of them.
        """
        table = self.profile.tiles.pixels
        chosen = None if table is None else table.sum_of(shape[-1], math.prod(shape[1:-1]))
        if chosen is not None and self.stored(shape)[0] == "int8" and self._group(shape):
            return dataclasses.replace(chosen, how="chunks")
        return chosen

    def _group(self, shape: tuple[int, ...]) -> int:
        return group_of(shape, self.most_of_group)

    def weights_of(self, shape: tuple[int, ...]) -> str:
        """What a ``Workload`` says of a weight of ``shape``."""
        kind, stored = self.stored(shape)
        group = self._group(shape) if kind == "int8" else 0
        return f"{stored}g{group}" if group else stored

    def note(self) -> str:
        """How many layers have which scales, in words; empty where weights have no groups."""
        if not self.most_of_group:
            return ""
        return ", ".join(f"{len(keys)} layers with {scales}" for scales, keys in sorted(self.scales.items()))

    def panel_width(self, key: str, workload: Workload) -> int:
        """Output channels of a panel of the weight ``key``, for its product ``workload``.

        A weight of several products, those of the bands of a picture, is packed once: the first decides.
        """
        columns = self.profile.tiles_of(workload).columns
        width = matmul_kernel.panel_width(workload.sizes[_CHANNELS[workload.family]], columns)
        return self.widths.setdefault(key, width)

    def stored(self, shape: tuple[int, ...]) -> tuple[str, str]:
        """What a weight of ``shape``, output channels first, is rounded to, and the dtype that stores it.

        Where int8 is asked for, sensitive layers get fp16 (:func:`is_sensitive`).
        """
        kind = self.weights.partition("-")[0]
        if kind == "int8" and is_sensitive(shape[0], shape[-1]):
            kind = "fp16"
        if kind == "int8":
            return kind, kind
        return kind, self.profile.compute_dtype if kind == "fp16" else "float32"

    def packed(
        self,
        key: str,
        matrix: Callable[[], np.ndarray],
        shape: tuple[int, ...],
        pack: Callable[..., np.ndarray],
        width: int,
    ) -> list[relax.Var]:
        """The packed weight and, for int8, its scale; ``matrix`` gives ``shape``, output channels first.

        Panels have ``width`` channels; :meth:`stored` says what the weight is rounded to. Scales of groups
        are packed as the weights are; those of whole output channels are one line.
        """
        panels = -(-shape[0] // width)
        packed_shape = (panels, *shape[1:], width)
        self.lowered.add(key)
        kind, stored = self.stored(shape)
        if kind == "int8":
            group = self._group(shape)
            name, scale = (f"{key}@int8g{group}@{width}", f"{key}@scale{group}@{width}")
            name, scale = (name, scale) if group else (f"{key}@int8@{width}", f"{key}@scale")
            self.store.add(name, Weight(packed_shape, "int8", lambda: pack(quantize(matrix(), group), width)))
            if group:
                scales_shape = (panels, *shape[1:-1], shape[-1] // group, width)
                scales = Weight(scales_shape, "float32", lambda: pack(scale_of(matrix(), group), width))
            else:
                scales = Weight((shape[0],), "float32", lambda: scale_of(matrix()))
            self.store.add(scale, scales)
            self._count(key, f"groups of {group}" if group else "one scale an output channel")
            return [self.variable(name), self.variable(scale)]
        if self.most_of_group:
            self._count(key, kind)
        name = f"{key}@{kind}@{width}"

        def convert() -> np.ndarray:
            values = matrix()
            # A device without fp16 arithmetic still gets the values that fp16 storage would give.
            rounded = values.astype(np.float16) if kind == "fp16" else values
            return pack(rounded.astype(stored), width)

        self.store.add(name, Weight(packed_shape, stored, convert))
        return [self.variable(name)]

    def _count(self, key: str, scales: str) -> None:
        self.scales.setdefault(scales, set()).add(key)


def close(function: relax.Function) -> relax.Function:
    """``function`` with its free variables, the new weights, as further parameters."""
    new = relax.analysis.free_vars(function)
    return relax.Function([*function.params, *new], function.body, function.ret_ty, True, function.attrs)
