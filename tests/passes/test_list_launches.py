"""Launches and the layers they came from."""

from __future__ import annotations

import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import tirx as T

from ddimcache.compiler.library import kernel_macs
from ddimcache.compiler.passes.list_launches import list_launches, weight_paths
from ddimcache.launches import Launch, LaunchLists


@I.ir_module(s_tir=True)
class Small:
    @T.prim_func(s_tir=True)
    def scale(x: T.Buffer((4,), "float32"), w: T.Buffer((4,), "float32"), out: T.Buffer((4,), "float32")):
        for i in range(4):
            with T.sblock("scale"):
                j = T.axis.spatial(4, i)
                out[j] = x[j] * w[j]

    @T.prim_func(s_tir=True)
    def copy(x: T.Buffer((4,), "float32"), out: T.Buffer((4,), "float32")):
        for i in range(4):
            with T.sblock("copy"):
                j = T.axis.spatial(4, i)
                out[j] = x[j]

    @T.prim_func(s_tir=True)
    def add(x: T.Buffer((4,), "float32"), y: T.Buffer((4,), "float32"), out: T.Buffer((4,), "float32")):
        for i in range(4):
            with T.sblock("add"):
                j = T.axis.spatial(4, i)
                out[j] = x[j] + y[j]

    @T.prim_func(s_tir=True)
    def peek(x: T.Buffer((4,), "float32"), y: T.Buffer((4,), "float32"), out: T.Buffer((4,), "float32")):
        T.func_attr({"ddimcache.sampled": 1})
        for i in range(4):
            with T.sblock("peek"):
                j = T.axis.spatial(4, i)
                out[j] = x[j] + y[0]


def small(kernels: list[tuple[str, list[str | int]]]) -> tvm.IRModule:
    """A planned function ``main(x, params)``: each kernel with its arguments, by name of an earlier result
    (``x``, ``0``, ``1`` …) or, as a number, a weight."""
    tensor = relax.TensorType((4,), "float32")
    x = relax.Var("x", tensor)
    params = relax.Var("params", relax.TupleType([tensor] * 8))
    builder = relax.BlockBuilder(Small)
    results: dict[str, relax.Expr] = {"x": x}
    with builder.function("main", [x, params]):
        for number, (kernel, arguments) in enumerate(kernels):
            values = [
                builder.emit(relax.TupleGetItem(params, argument))
                if isinstance(argument, int)
                else results[argument]
                for argument in arguments
            ]
            variable = Small.get_global_var(kernel)
            results[str(number)] = builder.emit(relax.call_tir(variable, relax.Tuple(values), tensor))
        builder.emit_func_output(results[str(len(kernels) - 1)])
    return relax.transform.CallTIRRewrite()(relax.transform.RemovePurityChecking()(builder.get()))


PATHS = [f"block.{index}.part.weight" for index in range(6)] + ["block.1.other.bias", "last.weight"]


def layers(kernels: list[tuple[str, list[str | int]]]) -> list[str]:
    lists = list_launches(small(kernels), ["main"], PATHS, kernel_macs, "component")
    return [launch.layer for launch in lists.functions["main"]]


def test_a_launch() -> None:
    lists = list_launches(small([("scale", ["x", 0])]), ["main"], PATHS, lambda _: 7, "component")
    launch = Launch("scale", "block.0.part", 7, 14, 32, 16, (4,), "float32")
    assert lists == LaunchLists({"main": (launch,)})


def test_an_input_of_which_a_few_elements_are_read_counts_for_nothing() -> None:
    lists = list_launches(
        small([("copy", ["x"]), ("peek", [2, "0"])]), ["main"], PATHS, kernel_macs, "sampler"
    )
    # Nor does it say where the launch belongs: the weight does.
    launch = Launch("peek", "block.2.part", 0, 4, 16, 16, (4,), "float32")
    assert lists.functions["main"][1] == launch


def test_a_kernel_alone() -> None:
    lists = list_launches(small([("copy", ["x"])]), ["copy"], PATHS, kernel_macs, "sampler")
    assert lists.functions["copy"] == (Launch("copy", "sampler", 0, 0, 16, 16, (4,), "float32"),)


def test_what_prepares_a_tensor_belongs_where_it_goes_first() -> None:
    kernels = [
        ("scale", ["x", 0]),
        ("copy", ["0"]),
        ("copy", ["1"]),
        ("scale", ["2", 1]),
        ("scale", ["2", 2]),
    ]
    assert layers(kernels) == [f"block.{index}.part" for index in (0, 1, 1, 1, 2)]


def test_what_several_layers_made_at_once_belongs_to_their_module() -> None:
    kernels: list[tuple[str, list[str | int]]] = [("add", [1, 6]), ("copy", ["0"]), ("scale", ["1", 1])]
    assert layers(kernels) == ["block.1", "block.1", "block.1.part"]


def test_what_nobody_reads_belongs_where_it_came_from() -> None:
    assert layers([("scale", ["x", 0]), ("copy", ["0"])]) == ["block.0.part"] * 2


def test_tensors_that_meet_belong_around_what_made_them() -> None:
    kernels = [("scale", ["x", 1]), ("scale", ["x", 6]), ("add", ["0", "1"]), ("scale", ["2", 7])]
    assert layers(kernels)[2] == "block.1"


def test_a_residual_sum_belongs_to_the_block_that_read_the_tensor() -> None:
    kernels = [("scale", ["x", 0]), ("scale", ["0", 1]), ("scale", ["1", 6]), ("add", ["0", "2"])]
    assert layers(kernels)[3] == "block.1"


def test_a_joined_skip_belongs_to_its_readers() -> None:
    kernels = [
        ("scale", ["x", 7]),
        ("add", ["x", "0"]),
        ("copy", ["1"]),
        ("scale", ["2", 1]),
        ("scale", ["1", 6]),
    ]
    assert layers(kernels) == ["last", "block.1", "block.1.part", "block.1.part", "block.1.other"]


def test_what_all_parts_made_at_once_belongs_to_the_component() -> None:
    assert layers([("scale", ["x", 1]), ("add", [7, 0]), ("scale", ["0", 1])])[1] == "component"


def test_what_meets_an_input_of_the_function_belongs_around_its_maker_and_its_readers() -> None:
    """As attention does, whose keys and values were computed before."""
    assert layers([("scale", ["x", 1]), ("add", ["0", "x"]), ("scale", ["1", 6])])[1] == "block.1"


def test_without_any_weight_it_is_the_component() -> None:
    assert layers([("copy", ["x"]), ("add", ["0", "x"])]) == ["component"] * 2


def test_names_of_derived_weights() -> None:
    paths = {"p_conv_weight": "conv.weight", "p_conv_bias": "conv.bias"}
    names = ["p_conv_weight|10@int8@32", "p_conv_weight@scale", "p_conv_bias", "p_conv_bias|1x4"]
    assert weight_paths(names, paths, {}) == ["conv.weight", "conv.weight", "conv.bias", "conv.bias"]


def test_a_merged_weight_belongs_to_the_module_around_its_parts() -> None:
    paths = {"p_q": "block.attn1.to_q.weight", "p_k": "block.attn1.to_k.weight"}
    merged = {"p_q+1": ("p_q", "p_k")}
    assert weight_paths(["p_q+1|10@int8@32"], paths, merged) == ["block.attn1.weight"]
