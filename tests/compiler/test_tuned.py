"""A model is compiled with the records that there are, and says which kernels have one."""

from __future__ import annotations

from pathlib import Path

import pytest
from tvm import tirx

from ddimcache.commands.inspect import describe
from ddimcache.compiler import pipeline
from ddimcache.compiler.cache import bundle_key
from ddimcache.compiler.frontend.pipeline_folder import load_pipeline_folder
from ddimcache.compiler.frontend.text_encoder import import_text_encoder
from ddimcache.compiler.options import CompileOptions
from ddimcache.compiler.target import profile
from ddimcache.kernels.tags import WORKLOAD
from ddimcache.kernels.workload import parse
from ddimcache.schedules import tuning_records as store
from tests.kit.device_run import compile_to
from tests.kit.family import stand_in
from tests.kit.tuning import other_decisions, record, write_folder


@pytest.mark.full
def test_a_bundle_says_which_kernels_have_a_record(tmp_path: Path) -> None:
    model = stand_in("tiny-sd15")
    device, folder = profile("llvm"), load_pipeline_folder(model)
    encoder = import_text_encoder(folder.load_text_encoder(), folder.text_length, "float32")
    compilation = pipeline.run(pipeline.Request(encoder, device, "int8", "encode"))
    kernels = [f for _, f in compilation.module.functions_items() if isinstance(f, tirx.PrimFunc)]
    workloads = sorted({str(kernel.attrs[WORKLOAD]) for kernel in kernels if WORKLOAD in kernel.attrs})
    assert {text.split()[0] for text in workloads} == {"matmul", "attention"}

    decided = {text: other_decisions(device.tiles, parse(text), seed=1) for text in workloads[::2]}
    records = [record(parse(text), decisions, "llvm") for text, decisions in decided.items()]
    log = write_folder(tmp_path / "log", "llvm", records)
    bundle = compile_to(model, tmp_path / "tuned", target="llvm", tune_log=str(log))
    found = {kernel["workload"]: kernel["tuned"] for kernel in describe(bundle)["kernels"]}
    assert {text: found[text] for text in workloads} == {text: decided.get(text, {}) for text in workloads}
    assert {text.split()[0] for text in found if text} == {"matmul", "conv2d", "geglu", "attention"}


def test_the_key_of_a_bundle_follows_the_records(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "model_index.json").write_text("{}")
    product = parse("matmul 64x320x320 float32 int8")
    folder = write_folder(tmp_path / "log", "llvm", [record(product, {"blocks.rows": 32}, "llvm")])
    options = CompileOptions(target="llvm", tune_log=str(folder))
    keys = {bundle_key(model, CompileOptions(target="llvm", tune_log="none")), bundle_key(model, options)}
    store.append(folder / store.RECORDS, record(product, {"blocks.rows": 16}, "llvm"))
    keys.add(bundle_key(model, options))
    assert len(keys) == 3


def test_the_key_follows_what_comes_with_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "model_index.json").write_text("{}")
    shipped = write_folder(tmp_path / "shipped", "llvm", [])
    monkeypatch.setattr(store, "shipped_folder", lambda _target: shipped)
    key = bundle_key(model, CompileOptions(target="llvm"))
    store.append(shipped / store.RECORDS, record(parse("matmul 64x320x320 float32 int8"), {}, "llvm"))
    assert bundle_key(model, CompileOptions(target="llvm")) != key
