"""Fuses GroupNorm with the SiLU and the border of zeros behind it into one kernel, or two of large pictures.

Before (channels last)::

    g = R.nn.group_norm(x, weight, bias); a = R.nn.silu(g); p = R.nn.pad(a, [0, 0, 1, 1, 1, 1, 0, 0])

After::

    p = R.call_tir(group_norm, (R.reshape(x, [B, H * W, C]), weight, bias))

A large picture is summed by a launch of its own (``TileTable.norms`` says from where on, and by which
kernels)::

    m = R.call_tir(group_norm_moments, (f,)); p = R.call_tir(group_norm_rows, (f, m, weight, bias))

What something else reads too is not fused: the chain ends before it.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import tvm
from tvm import relax

from ddimcache.compiler.passes.lower_products import dtype_name
from ddimcache.compiler.passes.partition_at_cut import bindings_of, substitute
from ddimcache.compiler.passes.simplify import op_name, static_shape
from ddimcache.compiler.target import DeviceProfile, TileTable
from ddimcache.kernels.group_norm.fused import NormBlocking, blocking_of, fused_group_norm
from ddimcache.kernels.group_norm.normalisation import Normalisation
from ddimcache.kernels.group_norm.rows import apply_rows, bands, row_moments
from ddimcache.kernels.tiling import largest_divisor

GROUP_NORM, SILU, PAD = "relax.nn.group_norm", "relax.nn.silu", "relax.nn.pad"


def normalisation_of(call: relax.Call) -> Normalisation | None:
    """What a ``group_norm`` call computes, or ``None`` where its channels are not the last axis."""
    shape = static_shape(call.args[0])
    if shape is None or len(shape) < 2 or int(call.attrs.channel_axis) % len(shape) != len(shape) - 1:
        return None
    batch, *sides, channels = shape
    height, width = sides if len(sides) == 2 else (math.prod(sides), 1)
    return Normalisation(
        batch,
        height,
        width,
        channels,
        int(call.attrs.num_groups),
        float(call.attrs.epsilon),
        dtype_name(call),
    )


def one_launch(norm: Normalisation, tiles: TileTable) -> NormBlocking | None:
    """How one launch computes ``norm``; ``None`` where it should not or cannot."""
    table = tiles.norms
    if table is None or norm.pixels > table.pixels:
        return None
    return blocking_of(norm, tiles.vector, table.threads, table.widest)


def one_launch_of_parameters(norm: Normalisation, tiles: TileTable) -> NormBlocking | None:
    """How one launch sums what another one normalises; ``None`` where it should not or cannot."""
    table = tiles.norms
    if table is None or norm.pixels > table.summed_pixels or table.threads == 1:
        return None
    return blocking_of(norm, tiles.vector, table.threads)


def is_fused(call: relax.Call, tiles: TileTable) -> bool:
    """Whether :class:`FuseGroupNorm` has kernels for a ``group_norm`` call."""
    norm = normalisation_of(call)
    if norm is None or tiles.norms is None:
        return False
    return bool(tiles.norms.bands) or one_launch(norm, tiles) is not None


@dataclass
class _Chain:
    """A normalisation and what is fused with it: the variables of all, the last one's is the result."""

    norm: Normalisation
    call: relax.Call
    variables: list[relax.Var]


def _chains(function: relax.Function, tiles: TileTable) -> list[_Chain]:
    readers: dict[relax.Var, list[relax.Binding | None]] = {}
    for binding in bindings_of(function):
        for variable in relax.analysis.free_vars(binding.value):
            readers.setdefault(variable, []).append(binding)
    for variable in relax.analysis.free_vars(function.body.body):
        readers.setdefault(variable, []).append(None)
    chains = []
    for binding in bindings_of(function):
        if op_name(binding.value) != GROUP_NORM or not is_fused(binding.value, tiles):
            continue
        norm = normalisation_of(binding.value)
        assert norm is not None
        chain = _Chain(norm, binding.value, [binding.var])
        while (reader := _only(readers.get(chain.variables[-1], []))) is not None:
            longer = _with(chain.norm, reader.value)
            if longer is None:
                break
            chain.norm = longer
            chain.variables.append(reader.var)
        chains.append(chain)
    return chains


def _only(readers: list[relax.Binding | None]) -> relax.Binding | None:
    return readers[0] if len(readers) == 1 else None


def _with(norm: Normalisation, call: relax.Expr) -> Normalisation | None:
    """``norm`` with what ``call`` does to it, where a kernel does that too."""
    if any(norm.padding):
        return None
    if op_name(call) == SILU and not norm.silu:
        return dataclasses.replace(norm, silu=True)
    if op_name(call) != PAD or len(static_shape(call) or []) != 4:
        return None
    before_b, after_b, top, bottom, left, right, before_c, after_c = map(int, call.attrs.pad_width)
    plain = str(call.attrs.pad_mode) == "constant" and float(call.attrs.pad_value) == 0
    if not plain or any((before_b, after_b, before_c, after_c)) or min(top, bottom, left, right) < 0:
        return None
    return dataclasses.replace(norm, padding=(top, left, bottom, right))


def _in_rows(norm: Normalisation) -> Normalisation:
    """``norm`` in rows that can be shared out: without a border it does not matter where they end."""
    if any(norm.padding):
        return norm
    width = largest_divisor(norm.pixels, 64)
    return dataclasses.replace(norm, height=norm.pixels // width, width=width)


def _emit(
    builder: relax.BlockBuilder, norm: Normalisation, arguments: list[relax.Expr], tiles: TileTable
) -> relax.Expr:
    """Emits the kernels of ``norm`` over x, weight and bias; returns the result in four axes."""
    norm = _in_rows(norm)
    x, *parameters = arguments
    flat = builder.emit(relax.op.reshape(x, norm.flat))
    out = relax.TensorType(norm.shape, norm.dtype)
    blocking = one_launch(norm, tiles)
    if blocking is not None:
        kernel = builder.add_func(fused_group_norm(norm, blocking), "group_norm")
        return builder.emit(relax.call_tir(kernel, [flat, *parameters], out))
    assert tiles.norms is not None
    most, vector = tiles.norms.bands, tiles.vector
    # Sums are the same whatever is done behind them.
    plain = dataclasses.replace(norm, silu=False, padding=(0, 0, 0, 0))
    moments = builder.add_func(row_moments(plain, most, vector), "group_norm_moments")
    kind = relax.TensorType([norm.batch, bands(norm, most), 2, norm.groups], "float32")
    sums = builder.emit(relax.call_tir(moments, [flat], kind))
    kernel = builder.add_func(apply_rows(norm, most, vector), "group_norm_rows")
    return builder.emit(relax.call_tir(kernel, [flat, sums, *parameters], out))


@tvm.transform.module_pass(opt_level=0, name="FuseGroupNorm")
class FuseGroupNorm:
    """See the module's text. After the pass, ``note`` says how many were fused with what."""

    def __init__(self, profile: DeviceProfile) -> None:
        self.tiles = profile.tiles
        self.note = ""

    def transform_module(self, module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """Fuses in every Relax function of ``module``."""
        functions = {
            variable: function
            for variable, function in module.functions_items()
            if isinstance(function, relax.Function)
        }
        chains = {variable: _chains(function, self.tiles) for variable, function in functions.items()}
        found = [chain for members in chains.values() for chain in members]
        if not found:
            return module
        self.note = (
            f"{len(found)} nn.group_norm, {sum(chain.norm.silu for chain in found)} with nn.silu, "
            f"{sum(any(chain.norm.padding) for chain in found)} with nn.pad"
        )
        kernels = dict(module.functions_items())
        for variable in functions:
            del kernels[variable]
        builder = relax.BlockBuilder(tvm.IRModule(kernels, attrs=module.attrs))
        for variable, function in functions.items():
            self._write(builder, variable.name_hint, function, chains[variable])
        result = builder.get()
        for variable, function in functions.items():
            name = variable.name_hint
            result.update_func(result.get_global_var(name), result[name].with_attrs(function.attrs))
        return relax.transform.CanonicalizeBindings()(result)

    def _write(
        self, builder: relax.BlockBuilder, name: str, function: relax.Function, chains: list[_Chain]
    ) -> None:
        """Writes a function again, with kernels in place of its ``chains``."""
        ends = {chain.variables[-1]: chain for chain in chains}
        inside = {variable for chain in chains for variable in chain.variables[:-1]}
        replaced: dict[relax.Var, relax.Var] = {}
        with builder.function(name, list(function.params)):
            with builder.dataflow():
                for binding in bindings_of(function):
                    if binding.var in inside:
                        continue
                    value = substitute(binding.value, replaced)
                    if (chain := ends.get(binding.var)) is not None:
                        arguments = [substitute(argument, replaced) for argument in chain.call.args]
                        result = _emit(builder, chain.norm, arguments, self.tiles)
                        shape = static_shape(binding.var) or []
                        value = result if static_shape(result) == shape else relax.op.reshape(result, shape)
                    replaced[binding.var] = builder.emit(value)
                output = builder.emit_output(substitute(function.body.body, replaced))
            builder.emit_func_output(output)
