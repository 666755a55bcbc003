"""From a PyTorch module to a Relax function, with the weights left where they are.

``torch.export`` traces the module; TVM's importer turns the trace into Relax without decomposing it, so
that attention, GroupNorm and LayerNorm arrive whole. The weights become parameters of the function and
stay PyTorch tensors: packing reads them one by one, so that a model is never in memory twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import tvm
from torch import fx
from tvm import relax
from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

from ddimcache.errors import FrontendError

TORCH_DTYPES = {"float32": torch.float32, "float16": torch.float16}
"""The dtypes in which a component can be traced, by the name that a device profile gives them."""

MASKED = -1.0e30
"""What a boolean attention mask adds to the score of a key that must not be seen."""


@dataclass(frozen=True)
class ImportedComponent:
    """A component as Relax: ``module`` has one function, ``main(inputs..., weights...)``.

    ``input_count`` parameters are inputs; every later parameter is a weight whose tensor is
    ``weights[parameter name]``, and ``weight_paths[parameter name]`` what PyTorch calls it in the model,
    ``conv_in.weight``.
    """

    name: str
    module: tvm.IRModule
    input_count: int
    weights: dict[str, torch.Tensor]
    weight_paths: dict[str, str]


class _Importer(ExportedProgramImporter):
    """TVM's importer, with two differences: weights are not copied, and shapes come as they are."""

    @staticmethod
    def _convert_pytorch_tensor_to_tvm(tensor_value: torch.Tensor) -> Any:
        if isinstance(tensor_value, torch.nn.Parameter):
            tensor_value = torch.zeros(())
        return ExportedProgramImporter._convert_pytorch_tensor_to_tvm(tensor_value.detach().contiguous())


def _argument(node: fx.Node, position: int, name: str, default: Any = None) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def _linear(node: fx.Node, importer: Any) -> relax.Var:
    """``aten.linear`` in the dtype of its input; TVM's own converter forces float32."""
    arguments = importer.retrieve_args(node)
    bias = arguments[2] if len(arguments) > 2 else None
    return importer.block_builder.emit(relax.op.linear(arguments[0], arguments[1], bias))


def _product(node: fx.Node, importer: Any) -> relax.Var:
    """``aten.matmul`` and ``aten.bmm`` in the dtype of their inputs; TVM's own converter forces float32."""
    left, right = importer.retrieve_args(node)[:2]
    return importer.block_builder.emit(relax.op.matmul(left, right))


def _conv2d(node: fx.Node, importer: Any) -> relax.Var:
    """``aten.conv2d`` in the dtype of its input; TVM's own converter forces float32."""
    emit = importer.block_builder.emit
    x, weight = (importer.env[argument] for argument in node.args[:2])
    bias = _argument(node, 2, "bias")
    padding = _argument(node, 4, "padding", 0)
    if isinstance(padding, str):
        raise FrontendError(f"a convolution with padding '{padding}' is not supported; give it in pixels")
    result = emit(
        relax.op.nn.conv2d(
            x,
            weight,
            strides=list(_argument(node, 3, "stride", [1, 1])),
            padding=padding if isinstance(padding, int) else list(padding),
            dilation=list(_argument(node, 5, "dilation", [1, 1])),
            groups=_argument(node, 6, "groups", 1),
        )
    )
    if bias is None:
        return result
    return emit(relax.op.add(result, emit(relax.op.reshape(importer.env[bias], [1, -1, 1, 1]))))


def _attention(node: fx.Node, importer: Any) -> relax.Var:
    """``scaled_dot_product_attention`` with its scale and boolean masks, which TVM's converter drops."""
    emit = importer.block_builder.emit
    query, key, value = (importer.env[argument] for argument in node.args[:3])
    if len(query.ty.shape) != 4:
        raise FrontendError(f"attention over {len(query.ty.shape)} dimensions is not supported; 4 are")
    if _argument(node, 4, "dropout_p", 0.0):
        raise FrontendError("attention with dropout is not an inference graph")
    mask = _argument(node, 3, "attn_mask")
    bias = None
    if mask is not None:
        bias = importer.env[mask]
        if bias.ty.dtype == "bool":
            bias = emit(relax.op.where(bias, relax.const(0.0, "float32"), relax.const(MASKED, "float32")))
        else:
            bias = emit(relax.op.astype(bias, "float32"))
    causal = "TopLeft" if _argument(node, 5, "is_causal", False) else None
    scale = node.kwargs.get("scale")

    def swap(tensor: relax.Expr) -> relax.Expr:
        return emit(relax.op.permute_dims(tensor, [0, 2, 1, 3]))

    result = emit(
        relax.op.nn.attention(swap(query), swap(key), swap(value), bias=bias, scale=scale, causal_mask=causal)
    )
    return swap(result)


def _embedding(node: fx.Node, importer: Any) -> relax.Var:
    """``aten.embedding`` that clips numbers outside the table; TVM's own converter reads past its end."""
    emit = importer.block_builder.emit
    table, ids = (importer.env[argument] for argument in node.args[:2])
    shape = [int(extent) for extent in ids.ty.shape.values]
    flat = emit(relax.op.reshape(emit(relax.op.astype(ids, "int32")), [-1]))
    rows = emit(relax.op.take(table, flat, axis=0, mode="clip"))
    return emit(relax.op.reshape(rows, [*shape, int(table.ty.shape.values[-1])]))


def _same(node: fx.Node, importer: Any) -> relax.Var:
    return importer.env[node.args[0]]


_CONVERTERS: dict[str, Callable[[fx.Node, Any], relax.Var]] = {
    "linear.default": _linear,
    "matmul.default": _product,
    "bmm.default": _product,
    "conv2d.default": _conv2d,
    "scaled_dot_product_attention.default": _attention,
    "embedding.default": _embedding,
    "alias.default": _same,
}


def _drop_dead_nodes(program: torch.export.ExportedProgram) -> None:
    """Removes assertions and what only they or unused outputs need, which is much of a text encoder."""
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.op == "call_function" and "_assert_tensor_metadata" in str(node.target):
            graph.erase_node(node)
    graph.eliminate_dead_code()
    program.graph_module.recompile()


def import_component(
    name: str, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]
) -> ImportedComponent:
    """Traces ``module`` with ``inputs`` (their values do not matter) and imports it.

    Raises :class:`FrontendError` when PyTorch cannot trace it or TVM does not know one of its operators.
    """
    module.eval()
    try:
        with torch.no_grad():
            program = torch.export.export(module, inputs)
    except Exception as error:  # whatever PyTorch's tracer raises is about this model
        raise FrontendError(f"{name}: torch.export cannot trace it: {error}") from error
    _drop_dead_nodes(program)
    try:
        relax_module = _Importer().from_exported_program(program, True, True, False, _CONVERTERS)
    except FrontendError:
        raise
    except Exception as error:  # TVM's importer raises AssertionError, KeyError and others of its own
        raise FrontendError(f"{name}: an operator has no Relax counterpart: {error}") from error
    signature = program.graph_signature.inputs_to_parameters
    parameters = dict(program.named_parameters())
    weights = {variable: parameters[target].detach() for variable, target in signature.items()}
    function = relax_module["main"].without_attr("params")
    relax_module = tvm.IRModule({"main": function})
    # What wraps a network for tracing is no layer of the model.
    children = [child for child, _ in module.named_children()]
    wrapper = f"{children[0]}." if len(children) == 1 else ""
    paths = {variable: target.removeprefix(wrapper) for variable, target in signature.items()}
    return ImportedComponent(name, relax_module, len(inputs), weights, paths)
