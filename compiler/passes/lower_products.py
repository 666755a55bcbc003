"""Lowers convolutions and linear layers to kernels over packed weights.

Before (channels last, weights as the model has them)::

    lv = R.permute_dims(weight, [0, 2, 3, 1]); y = R.nn.conv2d(x, lv, padding=1); z = R.matmul(y, w)

After::

    p = R.nn.pad(x, ...)
    y = R.call_tir(conv2d, (p, weight@int8@32, weight@scale), ...)
    z = R.call_tir(matmul, (y, w@int8@32, w@scale), ...)

Everything between a weight and its use (transposes, reshapes) is computed now and not on the device, and so
are rounding to int8 and packing into panels. A 1x1 convolution is a matrix product.
One that ``tiled`` speaks for is computed of tiles, which a kernel before it transforms::

    t = R.call_tir(winograd_input, (p,)); y = R.call_tir(conv2d, (t, weight@int8@8, weight@scale), ...)

 The new weights are
free variables of the function, named after entries of the weight store; ``BundleWeights`` collects them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container
from typing import Any

import numpy as np
import tvm
from tvm import relax, te
from tvm.relax.expr_functor import PyExprMutator, mutator

from ddimcache.compiler.compress.weights import Weight
from ddimcache.compiler.passes.pack_weights import Packing, Part, WeightPacker
from ddimcache.compiler.passes.partition_at_cut import bindings_of
from ddimcache.compiler.passes.simplify import op_name, permutation, slice_of, static_shape
from ddimcache.errors import FrontendError
from ddimcache.kernels.conv2d import kernel as conv2d_kernel
from ddimcache.kernels.conv2d.tiled import INPUT, tiled_conv2d, tiled_input
from ddimcache.kernels.matmul import kernel as matmul_kernel
from ddimcache.kernels.tiling import wide
from ddimcache.kernels.workload import Workload

OUT_ELEMENTWISE_FUSABLE = 4
"""TVM's operator pattern of a kernel into whose end element-wise work may be fused."""


INJECTIVE = 2
"""The same of a kernel whose every output reads fixed places of its input."""

Tiled = Callable[[Workload, str | None, int], bool]
"""Says whether a convolution that is summed so is to be one of transformed tiles.

The last argument are the bytes of the largest tensor of the function that it is in."""


def none_tiled(_workload: Workload, _sums: str | None, _largest: int) -> bool:
    """Convolves everything directly."""
    return False


def largest_tensor(function: relax.Function, weights: Container[relax.Var]) -> int:
    """Bytes of the largest tensor that ``function`` computes, of more than ``weights``, and uses."""
    constant = {parameter for parameter in function.params if parameter in weights}
    largest = 0
    for binding in bindings_of(relax.analysis.remove_all_unused(function)):
        shape = static_shape(binding.var)
        if all(variable in constant for variable in relax.analysis.free_vars(binding.value)):
            constant.add(binding.var)
        elif shape is not None:
            largest = max(largest, math.prod(shape) * np.dtype(dtype_name(binding.var)).itemsize)
    return largest


def dtype_name(expr: relax.Expr) -> str:
    """The dtype of a tensor expression as text."""
    return str(expr.ty.dtype)


def call_kernel(
    builder: relax.BlockBuilder,
    name: str,
    compute: Callable[..., te.Tensor],
    arguments: list[relax.Expr],
    attributes: dict[str, Any],
) -> relax.Expr:
    """A ``call_tir`` of the kernel that ``compute`` describes over placeholders of ``arguments``."""
    placeholders = [
        te.placeholder(wide(static_shape(argument) or []), dtype_name(argument), f"p{index}")
        for index, argument in enumerate(arguments)
    ]
    result = compute(*placeholders)
    function = te.create_prim_func([*placeholders, result]).with_attrs(attributes)
    variable = builder.add_func(function.without_attr("global_symbol"), name)
    out = relax.TensorType([int(extent) for extent in result.shape], str(result.dtype))
    return relax.call_tir(variable, arguments, out)


@mutator
class _ProductLowerer(PyExprMutator):
    def __init__(self, module: tvm.IRModule, packer: WeightPacker, tiled: Tiled) -> None:
        super().__init__(module)
        self.packer = packer
        self.tiled = tiled
        self.largest = 0
        self.store = packer.store

    def visit_function_(self, function: relax.Function) -> relax.Expr:
        self.largest = largest_tensor(function, self.packer.keys)
        return super().visit_function_(function)

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = super().visit_call_(call)
        name = op_name(call)
        if name in ("relax.permute_dims", "relax.reshape") and (key := self._key(call.args[0])) is not None:
            return self._moved_weight(call, key, name)
        if name == "relax.strided_slice" and (part := slice_of(call)) is not None:
            whole, *place = part
            key = self._key(whole)
            return call if key is None else self.packer.part(Part(key, *place))
        if name == "relax.matmul":
            key = self._key(call.args[1])
            if key is not None and len(self.store[key].shape) == 2:
                return self._linear(call, call.args[0], key)
        if name == "relax.nn.conv2d":
            return self._conv2d(call)
        return call

    def _key(self, expr: relax.Expr) -> str | None:
        return self.packer.key_of(expr, self)

    def _moved_weight(self, call: relax.Call, key: str, name: str) -> relax.Expr:
        weight, shape = self.store[key], tuple(static_shape(call) or ())
        if name == "relax.permute_dims":
            axes = permutation(call)
            moved = f"{key}|{''.join(map(str, axes))}"
            self.store.add(moved, Weight(shape, weight.dtype, lambda: weight.compute().transpose(axes)))
        else:
            moved = f"{key}|{'x'.join(map(str, shape))}"
            self.store.add(moved, Weight(shape, weight.dtype, lambda: weight.compute().reshape(shape)))
        return self.packer.variable(moved)

    def _linear(self, call: relax.Call, x: relax.Expr, key: str) -> relax.Expr:
        weight = self.store[key]
        depth, channels = weight.shape
        return self._matmul(x, key, lambda: weight.compute().T, (channels, depth), dtype_name(call))

    def _matmul(
        self, x: relax.Expr, key: str, matrix: Callable[[], np.ndarray], shape: tuple[int, int], dtype: str
    ) -> relax.Expr:
        """The product of ``x`` with the weight ``key``, whose ``matrix`` has ``shape`` [N, K]."""
        channels, _ = shape
        rows = math.prod((static_shape(x) or [])[:-1])
        workload = self.packer.product("matmul", key, shape, rows, dtype_name(x))
        sums = self.packer.sums(key, shape, matrix)
        width, fours = self.packer.panel_width(key, workload, sums), workload.dtype == "int8"
        packed = self.packer.packed(key, matrix, shape, matmul_kernel.pack, width, fours)

        def compute(x: te.Tensor, weight: te.Tensor, scale: te.Tensor | None = None) -> te.Tensor:
            return matmul_kernel.matmul(x, weight, scale, channels, dtype, sums)

        return call_kernel(
            self.builder_, "matmul", compute, [x, *packed], {"op_pattern": OUT_ELEMENTWISE_FUSABLE}
        )

    def _conv2d(self, call: relax.Call) -> relax.Expr:
        x, attributes = call.args[0], call.attrs
        key = self._key(call.args[1])
        if key is None:
            raise FrontendError("a convolution whose weight is computed by the model is not supported")
        if attributes.groups != 1 or [int(value) for value in attributes.dilation] != [1, 1]:
            raise FrontendError(f"convolution {key}: groups and dilation are not supported")
        if attributes.data_layout != "NHWC" or attributes.kernel_layout != "OHWI":
            raise FrontendError(f"convolution {key}: layouts must be NHWC and OHWI before LowerProducts")
        weight = self.store[key]
        channels, kernel_height, kernel_width, depth = weight.shape
        row_stride, column_stride = (int(value) for value in attributes.strides)
        strides = (row_stride, column_stride)
        padding = [int(value) for value in attributes.padding]
        top, left, bottom, right = padding if len(padding) == 4 else padding * (4 // len(padding))
        dtype = dtype_name(call)
        if (kernel_height, kernel_width) == (1, 1) and strides == (1, 1) and not any(padding):
            flat = (channels, depth)
            return self._matmul(x, key, lambda: weight.compute().reshape(flat), flat, dtype)
        if any(padding):
            x = self.builder_.emit(relax.op.nn.pad(x, [0, 0, top, bottom, left, right, 0, 0]))
        batch, out_height, out_width, _ = static_shape(call) or []
        sizes = (batch, out_height, out_width, depth, channels, kernel_height, kernel_width, *strides)
        workload = Workload(
            "conv2d",
            sizes,
            dtype_name(x),
            self.packer.weights_of_key(key, weight.shape),
        )
        sums = self.packer.sums(key, weight.shape, weight.compute)
        width = self.packer.panel_width(key, workload, sums)
        packed = self.packer.packed(key, weight.compute, weight.shape, conv2d_kernel.pack, width)
        tiled = self.tiled(workload, sums, self.largest)
        if tiled:
            attributes = {"op_pattern": INJECTIVE}
            x = self.builder_.emit(call_kernel(self.builder_, INPUT, tiled_input, [x], attributes))

        def compute(x: te.Tensor, weight: te.Tensor, scale: te.Tensor | None = None) -> te.Tensor:
            if tiled:
                sides = (out_height, out_width)
                return tiled_conv2d(x, weight, scale, sides, channels, dtype, str(sums))
            return conv2d_kernel.conv2d(x, weight, scale, channels, strides, dtype, sums)

        return call_kernel(
            self.builder_, "conv2d", compute, [x, *packed], {"op_pattern": OUT_ELEMENTWISE_FUSABLE}
        )


@tvm.transform.module_pass(opt_level=0, name="LowerProducts")
class LowerProducts:
    """See the module's text.

    ``tiled`` says which convolutions are of transformed tiles. After the pass, ``note`` says how many layers
    have which scales where those are of groups, and are summed how where there is a choice.
    """

    def __init__(self, packing: Packing, tiled: Tiled = none_tiled) -> None:
        self.packing = packing
        self.tiled = tiled
        self.note = ""

    def transform_module(self, module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """Lowers every Relax function of ``module``."""
        packer = WeightPacker(self.packing)
        module = packer.rewritten(module, _ProductLowerer(module, packer, self.tiled))
        self.note = packer.note()
        return module
