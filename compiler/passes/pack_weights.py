"""Weights as the kernels read them: rounded to int8 or fp16 and packed into panels.

No pass by itself: what passes that lower matrix products share. New weights are free variables of the
function under rewriting, named after entries of the weight store; :func:`close` makes them parameters, and
``BundleWeights`` collects them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator

from ddimcache.compiler.accumulate import Accumulation
from ddimcache.compiler.compress.quantize import group_of, is_sensitive, most_of_group, quantize, scale_of
from ddimcache.compiler.compress.weights import Weight, WeightStore
from ddimcache.compiler.target import DeviceProfile
from ddimcache.kernels.matmul import kernel as matmul_kernel
from ddimcache.kernels.matmul.dots import LANES, LONGEST, pack_fours
from ddimcache.kernels.scales import FOUR
from ddimcache.kernels.workload import SIZES, Workload

PanelWidths = dict[tuple[str, str], int]
"""Output channels of a panel, by the family of the product and the weight's name."""

Kept = Callable[[str], bool]
"""Says by a weight's name in the store whether its layer keeps fp16 where others get int8."""


def none_kept(_key: str) -> bool:
    """Keeps no layer."""
    return False


Rounds = Callable[[str, str], bool]
"""Says by a weight's name and that of the function that uses it whether activations are rounded to int8."""


def none_rounds(_key: str, _function: str) -> bool:
    """Rounds no activations."""
    return False


_CHANNELS = {family: names.index("channels") for family, names in SIZES.items() if "channels" in names}


@dataclass(frozen=True)
class Part:
    """The elements from ``begin`` to ``end`` along ``axis`` of the store's weight ``whole`` [O, ..., C].

    A part is rounded as a part of the whole, which may be a part itself: its numbers and scales are those of
    the outermost.
    """

    whole: str
    axis: int
    begin: int
    end: int

    def of(self, array: np.ndarray, group: int = 1) -> np.ndarray:
        """This part of ``array``; ``group`` input channels are one place where they are the last axis."""
        each = group if self.axis == array.ndim - 1 else 1
        return np.take(array, range(self.begin // each, self.end // each), self.axis)


class StoredWeights:
    """How ``profile`` stores weights: ``weights`` is a ``WeightsKind``, ``kept`` names layers of fp16."""

    def __init__(self, profile: DeviceProfile, weights: str, kept: Kept = none_kept) -> None:
        self.profile = profile
        self.weights = weights
        self.most_of_group = most_of_group(weights)
        self.kept = kept

    def stored(self, shape: tuple[int, ...], key: str = "") -> tuple[str, str]:
        """What a weight of ``shape``, output channels first, is rounded to, and the dtype that stores it.

        Where int8 is asked for, sensitive layers get fp16 (:func:`is_sensitive`), and so does a ``key`` that
        is kept.
        """
        kind = self.weights.partition("-")[0]
        if kind == "int8" and (is_sensitive(shape[0], shape[-1]) or self.kept(key)):
            kind = "fp16"
        if kind == "int8":
            return kind, kind
        return kind, self.profile.compute_dtype if kind == "fp16" else "float32"

    def group(self, shape: tuple[int, ...]) -> int:
        """Input channels that share a scale where a weight of ``shape`` is int8; 0 for whole channels."""
        return group_of(shape, self.most_of_group)

    def weights_of(self, shape: tuple[int, ...], key: str = "") -> str:
        """What a ``Workload`` says of the weight ``key`` of ``shape``."""
        kind, stored = self.stored(shape, key)
        group = self.group(shape) if kind == "int8" else 0
        return f"{stored}g{group}" if group else stored


@dataclass(frozen=True)
class Packing:
    """How a component's weights are packed, by all passes that pack some of them.

    ``store`` has the weights and gets the packed ones; ``weights`` is a ``WeightsKind``. ``inputs`` gives the
    number of leading parameters of every function that are no weights. ``accumulation`` decides how products
    are summed, by the rule alone where it is not given; ``widths``, which grows, has the panels' widths by
    family and weight, ``kept`` names layers of fp16, and ``rounds`` those whose activations are int8.
    """

    store: WeightStore
    profile: DeviceProfile
    weights: str
    inputs: Mapping[str, int]
    accumulation: Accumulation | None = None
    widths: PanelWidths = field(default_factory=dict)
    kept: Kept = none_kept
    rounds: Rounds = none_rounds


class WeightPacker(StoredWeights):
    """Derives packed weights for one pass.

    ``keys`` maps variables to the store's names. ``parts`` has those weights that are parts of others,
    ``scales`` how many of them have which scales, ``summed`` whose products are summed how, and ``rounding``
    whose activations are rounded to int8.
    """

    def __init__(self, packing: Packing) -> None:
        super().__init__(packing.profile, packing.weights, packing.kept)
        self.store = packing.store
        self.inputs = packing.inputs
        self.accumulation = packing.accumulation or Accumulation(packing.profile)
        self.widths = packing.widths
        self.rounds = packing.rounds
        self.function = ""
        self.rounding: set[str] = set()
        self.keys: dict[relax.Var, str] = {}
        self.summed: list[str] = []
        self.parts: dict[str, Part] = {}
        self.scales: dict[str, set[str]] = {}

    def rewritten(self, module: tvm.IRModule, rewriter: PyExprMutator) -> tvm.IRModule:
        """``module`` with every Relax function as ``rewriter`` makes it, new weights being parameters."""
        for variable, function in module.functions_items():
            if isinstance(function, relax.Function):
                weights = function.params[self.inputs[variable.name_hint] :]
                self.keys.update((parameter, parameter.name) for parameter in weights)
                self.function = variable.name_hint
                rewriter.builder_.update_func(variable, close(rewriter.visit_expr(function)))
        return rewriter.builder_.get()

    def key_of(self, expr: relax.Expr, rewriter: PyExprMutator) -> str | None:
        """The store's name of a weight, also behind a variable that is bound to one in ``rewriter``."""
        while isinstance(expr, relax.Var) and expr not in self.keys:
            expr = rewriter.lookup_binding(expr)
        return self.keys.get(expr) if isinstance(expr, relax.Var) else None

    def variable(self, key: str) -> relax.Var:
        """A new free variable for the store's weight ``key``."""
        weight = self.store[key]
        variable = relax.Var(key, relax.TensorType(weight.shape, weight.dtype))
        self.keys[variable] = key
        return variable

    def part(self, part: Part) -> relax.Var:
        """A new free variable for a part of a weight."""
        whole = self.store[part.whole]
        shape = list(whole.shape)
        shape[part.axis] = part.end - part.begin
        key = f"{part.whole}|{part.begin}to{part.end}of{part.axis}"
        self.store.add(key, Weight(tuple(shape), whole.dtype, lambda: part.of(whole.compute())))
        self.parts[key] = part
        return self.variable(key)

    def _parts_of(self, key: str) -> tuple[str, list[Part]]:
        """The weight that ``key`` is a part of, and the parts that are taken of it, one of the other."""
        taken: list[Part] = []
        while key in self.parts:
            taken.insert(0, self.parts[key])
            key = self.parts[key].whole
        return key, taken

    def rounded_shape(self, key: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that decides how the weight ``key`` of ``shape`` is rounded: the whole's for a part."""
        return self.store[self._parts_of(key)[0]].shape if key in self.parts else shape

    def weights_of_key(self, key: str, shape: tuple[int, ...]) -> str:
        """What a ``Workload`` says of the weight ``key`` of ``shape``."""
        return self.weights_of(self.rounded_shape(key, shape), key)

    def sums(self, key: str, shape: tuple[int, ...], matrix: Callable[[], np.ndarray]) -> str | None:
        """How products with the weight ``key`` of ``shape`` [O, ..., C], read as pixels, are summed.

        ``None`` where they are not read so. ``matrix`` computes the weight. A part is summed as the whole.
        """
        whole = self.rounded_shape(key, shape)
        self.summed.append(key)
        weight = self.store[self._parts_of(key)[0]].compute if key in self.parts else matrix
        rounded = self.weights_of(whole, key).startswith("int8")
        return self.accumulation.sums_of(key, whole, weight, rounded)

    def note(self) -> str:
        """How many layers have which scales and are summed how, in words, where there is a choice."""
        notes = []
        if self.most_of_group:
            notes += [f"{len(keys)} layers with {scales}" for scales, keys in sorted(self.scales.items())]
        if self.profile.tiles.pixels is not None:
            notes.append(self.accumulation.note(list(dict.fromkeys(self.summed))))
        if self.rounding:
            notes.append(f"{len(self.rounding)} with activations rounded to int8")
        return ", ".join(filter(None, notes))

    def product(self, family: str, key: str, shape: tuple[int, ...], rows: int, dtype: str) -> Workload:
        """The workload of ``rows`` of ``dtype`` times the weight ``key`` of ``shape`` [N, K].

        Its dtype is int8 where they are rounded: where it is asked for, the weight is int8 too and its panels
        are whole vectors of sums.
        """
        channels, depth = shape
        weights = self.weights_of_key(key, shape)
        plain, rounded = (
            Workload(family, (rows, depth, channels), kind, weights) for kind in (dtype, "int8")
        )
        fits = weights.startswith("int8") and depth % FOUR == 0 and depth <= LONGEST
        if self.profile.tiles.dots is None or not fits or not self.rounds(key, self.function):
            return plain
        width = self.panel_width(key, rounded)
        if width % LANES or channels % width:
            return plain
        self.rounding.add(key)
        return rounded

    def panel_width(self, key: str, workload: Workload, sums: str | None = None) -> int:
        """Output channels of a panel of the weight ``key``, for its product ``workload``.

        A weight of several products, those of the bands of a picture or of several picture sizes, is packed
        once: the first decides. ``sums`` says how they are summed.
        """
        columns = self.profile.tiles_of(workload).columns_of(sums)
        width = matmul_kernel.panel_width(workload.sizes[_CHANNELS[workload.family]], columns)
        return self.widths.setdefault((workload.family, key), width)

    def packed(
        self,
        key: str,
        matrix: Callable[[], np.ndarray],
        shape: tuple[int, ...],
        pack: Callable[..., np.ndarray],
        width: int,
        fours: bool = False,
    ) -> list[relax.Var]:
        """The packed weight and, for int8, its scale; ``matrix`` gives ``shape``, output channels first.

        Panels have ``width`` channels; :meth:`stored` says what the weight is rounded to. Scales of groups
        are packed as the weights are; those of whole output channels are one line. ``fours``, of int8 alone,
        puts the weights of four input channels into one number (``kernels/matmul/dots.py``).
        """
        panels = -(-shape[0] // width)
        packed_shape = (panels, *shape[1:], width)
        whole = self.rounded_shape(key, shape)
        kind, stored = self.stored(whole, key)
        if kind == "int8":
            group = self.group(whole)
            name, scale = (f"{key}@int8g{group}@{width}", f"{key}@scale{group}@{width}")
            name, scale = (name, scale) if group else (f"{key}@int8@{width}", f"{key}@scale")
            numbers, scales = self._rounded(key, matrix, shape, group)
            if fours:
                name, packed_shape = f"{name}@fours", (panels, shape[1] // FOUR, width)
                self.store.add(name, Weight(packed_shape, "int32", lambda: pack_fours(numbers(), width)))
            else:
                self.store.add(name, Weight(packed_shape, "int8", lambda: pack(numbers(), width)))
            if group:
                scales_shape = (panels, *shape[1:-1], shape[-1] // group, width)
                self.store.add(scale, Weight(scales_shape, "float32", lambda: pack(scales(), width)))
            else:
                self.store.add(scale, Weight((shape[0],), "float32", scales))
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

    def _rounded(
        self, key: str, matrix: Callable[[], np.ndarray], shape: tuple[int, ...], group: int
    ) -> tuple[Callable[[], np.ndarray], Callable[[], np.ndarray]]:
        """What computes the int8 numbers of a weight of ``shape``, and their scales."""
        if key not in self.parts:
            return lambda: quantize(matrix(), group), lambda: scale_of(matrix(), group)
        name, parts = self._parts_of(key)
        whole, scales_shape = self.store[name], (*shape[:-1], shape[-1] // group) if group else (shape[0],)

        def numbers() -> np.ndarray:
            found = quantize(whole.compute(), group)
            for part in parts:
                found = part.of(found)
            return found.reshape(shape)

        def scales() -> np.ndarray:
            found = scale_of(whole.compute(), group)
            for part in parts:
                # One scale an output channel is shared by parts along the input channels.
                if group or part.axis == 0:
                    found = part.of(found, group or 1)
            return found.reshape(scales_shape)

        return numbers, scales

    def _count(self, key: str, scales: str) -> None:
        self.scales.setdefault(scales, set()).add(key)


def close(function: relax.Function) -> relax.Function:
    """``function`` with its free variables, the new weights, as further parameters."""
    new = relax.analysis.free_vars(function)
    return relax.Function([*function.params, *new], function.body, function.ret_ty, True, function.attrs)
