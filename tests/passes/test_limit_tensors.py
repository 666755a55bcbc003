"""A tensor beyond what indices of 32 bits count is refused with its shape; others are let through."""

from __future__ import annotations

import pytest
from tvm import relax

from ddimcache.compiler import pipeline
from ddimcache.compiler.passes.limit_tensors import limit_tensors
from ddimcache.errors import CompileError
from tests.passes.test_pipeline import request


def doubled(*shape: int) -> relax.Function:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(shape, "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            out = builder.emit_output(builder.emit(relax.op.add(x, x)))
        builder.emit_func_output(out)
    return builder.get()["main"]


def test_a_tensor_that_cannot_be_counted_is_refused() -> None:
    with pytest.raises(CompileError) as caught:
        limit_tensors(doubled(64, 512, 512, 128), "vae_decoder")
    assert str(caught.value) == (
        "vae_decoder: a tensor of 64x512x512x128 has 2147483648 numbers, kernels count 2147483647 at most; "
        "take a smaller --size or --batch"
    )


def test_leaves_alone_what_can_be_counted() -> None:
    limit_tensors(doubled(2**31 - 1), "vae_decoder")


def test_a_component_is_refused_before_any_kernel_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ddimcache.compiler.passes.limit_tensors.MOST_NUMBERS", 100)
    phases: list[str] = []
    with pytest.raises(CompileError, match=r"^text_encoder: a tensor of [\dx]+ has \d+ numbers"):
        pipeline.run(request("text_encoder"), started=phases.append)
    assert phases[-1] == "common subexpressions"
