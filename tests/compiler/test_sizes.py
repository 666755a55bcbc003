"""Bundles of several picture sizes: every size is what PyTorch computes, and as if it were alone."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ddimcache.commands.inspect import describe
from ddimcache.compiler.target import profile
from ddimcache.errors import CompileError, UsageError
from ddimcache.kernels.workload import parse
from ddimcache.models.stand_in import write_stand_in
from ddimcache.models.stand_in_presets import Preset
from ddimcache.runtime.bundle import Bundle
from ddimcache.runtime.devices import parse_device
from ddimcache.runtime.image import ImageRequest
from ddimcache.runtime.session import Session
from ddimcache.runtime.tokenizer import Tokenizer
from ddimcache.schedules.spaces import space_of
from tests.kit.device_run import compile_to, distance, psnr, sizes_of
from tests.kit.family import family_members, single_thread, stand_in
from tests.kit.reference import TorchPipeline, fake_quantise, sample
from tests.kit.shared_bundles import compiled
from tests.kit.tuning import record, write_folder

pytestmark = pytest.mark.host
one_thread = pytest.fixture(scope="module", autouse=True)(single_thread)

PROMPT = "a large red circle on white"
# The last has 96 x 96 latents, as SD 2.1 at 768 x 768.
SIZES = ((128, 64), (64, 128), (192, 192))


@pytest.fixture(scope="module")
def model() -> Path:
    return stand_in("small")


@pytest.fixture(scope="module")
def bundle(model: Path) -> Bundle:
    return compiled(model, target="llvm", **sizes_of(SIZES))


@pytest.fixture(scope="module")
def rounded(model: Path) -> TorchPipeline:
    """The model in PyTorch with the weights that int8 leaves."""
    pipe = TorchPipeline.load(model)
    for network in (pipe.text_encoder, pipe.unet, pipe.vae):
        fake_quantise(network)
    return pipe


def compare(
    bundle: Bundle, pipe: TorchPipeline, sizes: Sequence[tuple[int, int]], guidance: float = 2.0, cut: int = 0
) -> None:
    """Draw ``sizes`` one after another in one session, and hold latents and pictures against PyTorch."""
    tokenizer = Tokenizer(bundle.tokenizer)
    ids, negative_ids = tokenizer.encode(PROMPT), tokenizer.encode("")
    session = Session(bundle, parse_device("llvm"))
    try:
        for image_size in sizes:
            shape = bundle.manifest.latents_of(bundle.manifest.size_of(image_size).latent_size).shape
            latents = np.random.default_rng(len(shape) + sum(image_size)).standard_normal(shape, "float32")
            noise = latents.astype("<f4").tobytes()
            request = ImageRequest(ids, negative_ids, noise, 3, 2, guidance, size=image_size)
            ours = session.draw(request).drawn
            theirs = sample(pipe, PROMPT, latents, cut=cut, steps=3, guidance=guidance, cache_interval=2)
            assert distance(ours.latents, theirs.latents.numpy()) < 1e-4, image_size
            assert psnr(ours.pixels[0], theirs.image) > 50, image_size
    finally:
        session.close()


def test_every_size_is_what_torch_computes(bundle: Bundle, rounded: TorchPipeline) -> None:
    compare(bundle, rounded, [*SIZES, SIZES[0]])


@pytest.mark.parametrize("size", SIZES[1:2])
def test_a_size_is_drawn_as_by_a_bundle_of_its_own(
    model: Path, bundle: Bundle, tmp_path: Path, size: tuple[int, int]
) -> None:
    """The same bits, guided and through the cache, though its weights are packed for another size."""
    own = compile_to(model, tmp_path / "own", target="llvm", **sizes_of([size]))
    ids = Tokenizer(own.tokenizer).encode(PROMPT)
    negative, drawn = Tokenizer(own.tokenizer).encode(""), []
    for each in (bundle, own):
        session = Session(each, parse_device("llvm"))
        try:
            done = session.draw(ImageRequest(ids, negative, 7, 3, 2, 2.0, size=size)).drawn
        finally:
            session.close()
        drawn.append((done.latents.tobytes(), done.pixels.tobytes()))
    assert drawn[0] == drawn[1]
    assert bundle.at(size).manifest.macs_full == own.manifest.macs_full
    planned = {name: entry.activation_bytes for name, entry in own.manifest.components.items()}
    seen = bundle.at(size).manifest.components.items()
    assert {name: entry.activation_bytes for name, entry in seen} == planned


def test_what_sizes_share_is_there_once(bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert [size.image_size for size in manifest.sizes] == list(SIZES)
    assert set(manifest.components["text_encoder"].functions) == {"encode"}
    functions = set(manifest.components["unet"].functions)
    assert {name for name in functions if name.startswith(("embed", "project"))} == set(manifest.macs_once)
    kernels = manifest.components["unet"].kernels
    alone = [
        {kernel.name for kernel in bundle.at(size).manifest.components["unet"].kernels} for size in SIZES
    ]
    assert set.union(*alone) == {kernel.name for kernel in kernels}
    # Turned by a quarter, a picture has as many tokens: what goes by them is one kernel for both.
    assert len(alone[0] & alone[1]) > len(alone[1] & alone[2]) > 0
    passes = {(report.component, report.size) for report in manifest.passes}
    assert passes == {
        ("text_encoder", None),
        *((component, size) for component in ("unet", "vae_decoder") for size in SIZES),
    }


def test_inspect_tells_sizes_apart(bundle: Bundle) -> None:
    facts = describe(bundle)
    assert [tuple(entry["size"]) for entry in facts["sizes"]] == list(SIZES)
    assert facts["sizes"][0]["macs_full"] == facts["macs_full"] < facts["sizes"][2]["macs_full"]
    for entry in facts["sizes"]:
        one = describe(bundle.at(tuple(entry["size"])))
        assert (one["size"], one["macs_cached"]) == (entry["size"], entry["macs_cached"])
        assert one["activation_bytes"] == entry["activation_bytes"]
        assert {name for kernel in one["kernels"] for name in kernel["calls"]} <= {
            *("encode", "embed_time", "project_context", "full", "cached", "decode"),
        }


@pytest.mark.full
def test_records_of_one_size_do_not_pack_the_weights_of_another(
    model: Path, bundle: Bundle, rounded: TorchPipeline, tmp_path: Path
) -> None:
    """Every size would have panels of its own, by its records: the first decides, the others follow."""
    tiles, records = profile("llvm").tiles, {}
    for index, size in enumerate(SIZES[:2]):
        for kernel in describe(bundle.at(size))["kernels"]:
            if kernel["workload"] is None:
                continue
            workload = parse(kernel["workload"])
            widths = space_of(tiles, workload).get("columns", ())
            if len(widths) > 1:
                records[workload] = record(workload, {"columns": widths[index % len(widths)]}, "llvm")
    assert len({entry.decisions["columns"] for entry in records.values()}) > 1
    log = write_folder(tmp_path / "log", "llvm", list(records.values()))
    tuned = compile_to(model, tmp_path / "tuned", target="llvm", tune_log=str(log), **sizes_of(SIZES[:2]))
    widths = {weight.name.rpartition("@")[2] for weight in tuned.manifest.components["unet"].weights}
    assert len(widths) > 2
    used = [kernel["tuned"] for kernel in describe(tuned)["kernels"] if kernel["workload"]]
    assert {} in used
    assert any(used)
    compare(tuned, rounded, SIZES[:2])


@pytest.mark.full
def test_a_budget_is_for_every_size(
    model: Path, bundle: Bundle, rounded: TorchPipeline, tmp_path: Path
) -> None:
    sizes = (SIZES[0], SIZES[2])
    small, large = (bundle.at(size).manifest for size in sizes)
    # Components share their storages, so that bands save little here.
    budget = large.activation_bytes - large.components["vae_decoder"].activation_bytes // 64
    assert small.activation_bytes < budget
    fitted = compile_to(model, tmp_path / "fitted", target="llvm", memory_budget=budget, **sizes_of(sizes))
    notes = {
        report.size: report.note
        for report in fitted.manifest.passes
        if (report.component, report.name) == ("vae_decoder", "tile rows")
    }
    assert "bands" not in notes[sizes[0]]
    assert "bands" in notes[sizes[1]]
    assert all(fitted.at(size).manifest.activation_bytes <= budget for size in sizes)
    compare(fitted, rounded, sizes)
    with pytest.raises(CompileError, match=r"--memory-budget leaves"):
        compile_to(model, tmp_path / "none", target="llvm", memory_budget=budget // 8, **sizes_of(sizes))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (sizes_of([(64, 64), (64, 64)]), "--size: names a size twice"),
        (sizes_of([(64, 64), (64, 60)]), "--size: height 60 is not a multiple of 8"),
        ({"more_sizes": ((64, 64),)}, "--size: further sizes need a first one"),
        (sizes_of([(8 * side, 64) for side in range(8, 41)]), "--size: 33 sizes, at most 32 fit"),
    ],
)
def test_sizes_that_cannot_be(tmp_path: Path, model: Path, options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        compile_to(model, tmp_path / "bundle", target="llvm", **options)


@pytest.mark.full
@pytest.mark.timeout(7200)
@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(
    preset=family_members(),
    sizes=st.lists(
        st.tuples(st.sampled_from([64, 128, 192]), st.sampled_from([64, 128, 192])),
        min_size=2,
        max_size=4,
        unique=True,
    ),
    weights=st.sampled_from(["fp32", "int8", "int8-g32"]),
)
def test_random_members_at_random_sizes(preset: Preset, sizes: list, weights: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        model = write_stand_in(preset, Path(scratch) / "model", dtype="float32")
        pipe = TorchPipeline.load(model)
        kind, _, group = weights.partition("-g")
        if kind == "int8":
            for network in (pipe.text_encoder, pipe.unet, pipe.vae):
                fake_quantise(network, group=int(group or 0))
        bundle = compile_to(
            model, Path(scratch) / "bundle", target="llvm", weights=weights, **sizes_of(sizes)
        )
        compare(bundle, pipe, sizes)
