"""LoRA files merged into a model: by the formula, as diffusers does, and in the picture; bad ones refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ddimcache.compiler.cache import bundle_key
from ddimcache.compiler.frontend.lora import read_lora
from ddimcache.compiler.frontend.pipeline_folder import PipelineFolder, load_pipeline_folder
from ddimcache.compiler.options import CompileOptions, LoraChoice
from ddimcache.errors import DdimcacheError, FrontendError, UsageError
from tests.kit.device_run import compile_to, distance, psnr, run
from tests.kit.family import single_thread, stand_in
from tests.kit.lora_files import FORMATS, Parts, merged_by_hand, random_parts, write_lora
from tests.kit.reference import TorchPipeline, diffusers_pipeline, fake_quantise, sample

one_thread = pytest.fixture(scope="module", autouse=True)(single_thread)
MODEL = "tiny-sd15"
LAYER_IN_UNET = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
LAYER = f"unet.{LAYER_IN_UNET}"


@pytest.fixture(scope="module")
def plain() -> PipelineFolder:
    return load_pipeline_folder(stand_in(MODEL))


@pytest.fixture(scope="module")
def networks(plain: PipelineFolder) -> dict[str, torch.nn.Module]:
    return {"unet": plain.load_unet(), "text_encoder": plain.load_text_encoder()}


@pytest.fixture(scope="module")
def parts(networks: dict[str, torch.nn.Module]) -> Parts:
    return random_parts(networks)


def merged(*files: tuple[Path, float]) -> dict[str, torch.nn.Module]:
    folder = load_pipeline_folder(stand_in(MODEL), [LoraChoice(path, scale) for path, scale in files])
    return {"unet": folder.load_unet(), "text_encoder": folder.load_text_encoder()}


def largest_error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found.double() - exact.double()).abs().max() / exact.abs().max())


def test_the_layers_are_of_every_kind(parts: Parts) -> None:
    shapes = {(component, *down.shape[2:]) for (component, _), (down, _) in parts.items()}
    assert shapes == {("unet",), ("unet", 1, 1), ("unet", 3, 3), ("text_encoder",)}
    assert any(layer.endswith("to_out.0") for _, layer in parts)


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_is_merged_by_the_formula(
    networks: dict[str, torch.nn.Module], parts: Parts, form: str, tmp_path: Path
) -> None:
    alpha = 2.5 if form == "kohya" else None
    changed = merged((write_lora(tmp_path / "a.safetensors", parts, form, alpha), 0.7))
    exact = merged_by_hand(networks, parts, 0.7, alpha)
    for component, network in changed.items():
        for name, tensor in network.state_dict().items():
            layer = (component, name.removesuffix(".weight"))
            before = networks[component].state_dict()[name]
            if name.endswith(".weight") and layer in exact:
                assert largest_error(tensor, exact[layer]) < 1e-6
                assert not torch.equal(tensor, before)
            else:
                assert torch.equal(tensor, before), name


@pytest.mark.peft
@pytest.mark.parametrize(
    ("form", "alpha", "dtype"),
    [
        ("peft", None, torch.float32),
        ("peft", 2.0, torch.float32),
        ("peft", None, torch.float16),
        ("diffusers", None, torch.float32),
        ("processors", None, torch.float32),
        ("kohya", None, torch.float32),
        ("kohya", 2.0, torch.bfloat16),
    ],
)
def test_merging_is_that_of_diffusers(
    parts: Parts, form: str, alpha: float | None, dtype: torch.dtype, tmp_path: Path
) -> None:
    file = write_lora(tmp_path / "a.safetensors", parts, form, alpha, dtype)
    theirs = diffusers_pipeline(stand_in(MODEL))
    theirs.load_lora_weights(tmp_path, weight_name=file.name)
    theirs.fuse_lora(lora_scale=0.8)
    theirs.unload_lora_weights()
    ours = merged((file, 0.8))
    changed = 0
    for component, network in ours.items():
        state = getattr(theirs, component).state_dict()
        assert set(state) == set(network.state_dict())
        plain = getattr(load_pipeline_folder(stand_in(MODEL)), f"load_{component}")().state_dict()
        for name, tensor in network.state_dict().items():
            assert largest_error(tensor, state[name]) < 1e-6 or not state[name].any(), (component, name)
            changed += not torch.equal(tensor, plain[name])
    assert changed == len(parts)


@pytest.mark.peft
def test_what_diffusers_saves_again_is_the_same(
    networks: dict[str, torch.nn.Module], parts: Parts, tmp_path: Path
) -> None:
    """With ranks that differ it writes an alpha for every layer of another rank, by a regular expression."""
    from peft.utils import get_peft_model_state_dict

    file = write_lora(tmp_path / "a.safetensors", parts, "peft")
    theirs = diffusers_pipeline(stand_in(MODEL))
    theirs.load_lora_weights(tmp_path, weight_name=file.name, adapter_name="own")
    saved: dict = {}
    for component in ("unet", "text_encoder"):
        network = getattr(theirs, component)
        saved[f"{component}_lora_layers"] = get_peft_model_state_dict(network, adapter_name="own")
        saved[f"{component}_lora_adapter_metadata"] = network.peft_config["own"].to_dict()
    theirs.save_lora_weights(tmp_path / "again", **saved)
    again = tmp_path / "again/pytorch_lora_weights.safetensors"
    with safe_open(again, framework="pt") as opened:
        metadata = json.loads(opened.metadata()["lora_adapter_metadata"])
    assert any(pattern.startswith("^") for pattern in metadata["unet.alpha_pattern"])
    changed = merged((again, 0.7))
    for (component, layer), weight in merged_by_hand(networks, parts, 0.7).items():
        assert largest_error(changed[component].get_submodule(layer).weight, weight) < 1e-6, layer


@pytest.mark.parametrize(
    ("patterns", "factor"),
    [
        ({"to_q": 6.0, LAYER_IN_UNET: 4.0}, 3.0),
        ({LAYER_IN_UNET.replace(".", r"\."): 6.0}, 3.0),
        ({f"^{LAYER_IN_UNET}$": 6.0}, 3.0),
        ({"^attn1.to_q": 6.0, "o_q": 6.0}, 1.0),
    ],
)
def test_the_first_pattern_of_a_whole_name_counts(patterns: dict, factor: float, tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    metadata = {"unet.r": 2, "unet.lora_alpha": 2, "unet.alpha_pattern": patterns}
    save_file(GOOD, file, {"lora_adapter_metadata": json.dumps(metadata)})
    [layer] = read_lora(LoraChoice(file, 1.0), SHAPES).layers["unet"].values()
    assert layer.factor == factor


def test_two_files_add_up(networks: dict[str, torch.nn.Module], parts: Parts, tmp_path: Path) -> None:
    halves = list(parts)
    one = write_lora(tmp_path / "one.safetensors", {key: parts[key] for key in halves[::2]}, "peft")
    two = write_lora(tmp_path / "two.safetensors", parts, "kohya", 1.0)
    found = merged((one, 0.5), (two, -0.25))
    first, second = merged_by_hand(networks, parts, 0.5), merged_by_hand(networks, parts, -0.25, 1.0)
    for component, layer in parts:
        before = networks[component].get_submodule(layer).weight.double()
        exact = second[component, layer]
        if (component, layer) in halves[::2]:
            exact = exact + first[component, layer] - before
        assert largest_error(found[component].get_submodule(layer).weight, exact) < 1e-6


def test_compiled_pictures_are_those_of_the_merged_model(parts: Parts, tmp_path: Path) -> None:
    # Changes of the size of the weights would make pictures of noise.
    file = write_lora(tmp_path / "a.safetensors", parts, "kohya", 0.5)
    choices = {"target": "llvm", "weights": "int8-g32", "loras": (f"{file}:0.2",)}
    bundle = compile_to(stand_in(MODEL), tmp_path / "bundle", **choices)
    [lora] = bundle.manifest.loras
    assert (lora.name, lora.scale) == (file.name, 0.2)
    assert bundle.manifest.model_fingerprint != load_pipeline_folder(stand_in(MODEL)).fingerprint()
    plain, pipe = diffusers_pipeline(stand_in(MODEL)), diffusers_pipeline(stand_in(MODEL))
    networks = {"unet": plain.unet, "text_encoder": plain.text_encoder}
    for (component, layer), weight in merged_by_hand(networks, parts, 0.2, 0.5).items():
        with torch.no_grad():
            getattr(pipe, component).get_submodule(layer).weight.copy_(weight)
    for network in (pipe.unet, pipe.text_encoder, pipe.vae):
        fake_quantise(network, group=32)
    noise = np.random.default_rng(0).standard_normal(bundle.manifest.latents.shape).astype("float32")
    numbers = {"steps": 3, "guidance": 3.0, "cache_interval": 2}
    ours = run(bundle, "a red circle", noise, **numbers)
    theirs = sample(TorchPipeline.of(pipe), "a red circle", noise, **numbers)
    other = sample(TorchPipeline.of(plain), "a red circle", noise, **numbers)
    assert distance(ours.latents, theirs.latents.numpy()) < 1e-4
    assert psnr(ours.images[0], theirs.image) > 50
    assert distance(ours.latents, other.latents.numpy()) > 1e-2


def test_the_key_of_a_bundle_names_contents_and_scale(parts: Parts, tmp_path: Path) -> None:
    file = write_lora(tmp_path / "a.safetensors", parts, "peft")
    model = stand_in(MODEL)

    def key(*loras: str) -> str:
        return bundle_key(model, CompileOptions(loras=loras))

    keys = [key(), key(str(file)), key(f"{file}:0.5")]
    write_lora(file, dict(list(parts.items())[:3]), "peft")
    keys.append(key(str(file)))
    assert len(set(keys)) == 4
    options = CompileOptions(loras=(f"{file}:0.5",))
    assert CompileOptions.from_json(options.to_json()) == options
    with pytest.raises(UsageError, match=r"--lora: .*b\.safetensors cannot be read: No such file"):
        key(str(tmp_path / "b.safetensors"))


@pytest.mark.parametrize(
    ("text", "name", "scale"),
    [
        ("a.safetensors", "a.safetensors", 1.0),
        ("a.safetensors:0.8", "a.safetensors", 0.8),
        ("a.safetensors:-1", "a.safetensors", -1.0),
        ("odd:name.safetensors", "odd:name.safetensors", 1.0),
        ("odd:0.5.safetensors:2", "odd:0.5.safetensors", 2.0),
    ],
)
def test_files_with_scales(text: str, name: str, scale: float) -> None:
    assert LoraChoice.parse(text) == LoraChoice(Path(name), scale)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.bin", r"--lora: 'a\.bin' is no safetensors file"),
        ("a.pt:0.5", r"--lora: 'a\.pt' is no safetensors file"),
        ("", "is no safetensors file"),
        ("a.safetensors:nan", "--lora: scale nan is no number"),
        ("a.safetensors:inf", "--lora: scale inf is no number"),
    ],
)
def test_other_files_and_scales_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        CompileOptions(loras=(text,))


KOHYA = "lora_unet_" + LAYER_IN_UNET.replace(".", "_")


def pair(down: tuple[int, ...], up: tuple[int, ...], stem: str = LAYER) -> dict[str, torch.Tensor]:
    names = ("lora_A", "lora_B") if stem == LAYER else ("lora_down", "lora_up")
    shapes = zip(names, (down, up), strict=True)
    return {f"{stem}.{name}.weight": torch.ones(shape) for name, shape in shapes}


WIDTH = 64
GOOD = pair((2, WIDTH), (WIDTH, 2))
# name -> tensors, metadata, and what the message has to say
BAD: dict[str, tuple[dict[str, torch.Tensor], dict, str]] = {
    "empty": ({}, {}, "holds no tensors"),
    "another model's layer": (
        {**GOOD, "unet.down_blocks.9.lora_A.weight": torch.ones(2, 2)},
        {},
        "`unet.down_blocks.9.lora_A.weight` is no part of a LoRA for this model",
    ),
    "a norm": (
        {"unet.conv_norm_out.lora_A.weight": torch.ones(2, 2)},
        {},
        "`unet.conv_norm_out.lora_A.weight` is no part",
    ),
    "a token embedding": (
        {"text_encoder.text_model.embeddings.token_embedding.lora_A.weight": torch.ones(2, 2)},
        {},
        "is no part of a LoRA",
    ),
    "two unknown": ({"a": torch.ones(1), "b": torch.ones(1)}, {}, "`a` is no part .*, nor are 1 more"),
    "DoRA": (
        {**pair((2, WIDTH), (WIDTH, 2), KOHYA), f"{KOHYA}.dora_scale": torch.ones(WIDTH)},
        {},
        "dora_scale` is no part of a LoRA .*no DoRA, LoHa",
    ),
    "SDXL": ({"lora_te2_x.lora_down.weight": torch.ones(2, 2)}, {}, "is no part"),
    "no up": ({f"{LAYER}.lora_A.weight": torch.ones(2, WIDTH)}, {}, "lacks its lora_B or lora_up"),
    "no down": ({f"{LAYER}.lora_B.weight": torch.ones(WIDTH, 2)}, {}, "lacks its lora_A or lora_down"),
    "alpha alone": ({f"{KOHYA}.alpha": torch.tensor(1.0)}, {}, "lacks its lora_A"),
    "twice": (
        {**GOOD, f"{LAYER}.lora.down.weight": torch.ones(2, WIDTH)},
        {},
        "are the same part of `mid_block",
    ),
    "narrow": (
        pair((2, 3), (WIDTH, 2)),
        {},
        rf"has shape \[2, 3\], but a weight of \[{WIDTH}, {WIDTH}\] asks for",
    ),
    "other rank": (
        pair((2, WIDTH), (WIDTH, 3)),
        {},
        rf"has shape \[{WIDTH}, 3\], .* asks for \[{WIDTH}, 2\]",
    ),
    "rank 0": (pair((0, WIDTH), (WIDTH, 0)), {}, r"has shape \[0, "),
    "a scalar": (pair((), ()), {}, r"has shape \[\]"),
    "whole numbers": (
        {name: tensor.to(torch.int8) for name, tensor in GOOD.items()},
        {},
        "is stored as I8, not F32 or F16",
    ),
    "names of nobody": (
        {name.removeprefix("unet."): tensor for name, tensor in GOOD.items()},
        {},
        r"is no part of a LoRA.*; its names do not say whose layers they are: put `unet\.` before each",
    ),
    "NaN": (
        {name: tensor * float("nan") for name, tensor in GOOD.items()},
        {},
        "holds a NaN or an infinity",
    ),
    "too large": (
        {name: tensor * 1e30 for name, tensor in GOOD.items()},
        {},
        "makes weights of `mid_block.* infinite",
    ),
    "two alphas": (
        {**pair((2, WIDTH), (WIDTH, 2), KOHYA), f"{KOHYA}.alpha": torch.ones(2)},
        {},
        r"alpha` has shape \[2\], not one number",
    ),
    "alpha of some": (
        {
            **pair((2, WIDTH), (WIDTH, 2), KOHYA),
            f"{KOHYA}.alpha": torch.tensor(1.0),
            **pair((2, WIDTH), (WIDTH, 2), KOHYA[:-1] + "k"),
        },
        {},
        "has no alpha, though 1 other",
    ),
    "metadata torn": (GOOD, {"lora_adapter_metadata": "{"}, "is not JSON"),
    "metadata a list": (GOOD, {"lora_adapter_metadata": "[]"}, "is not a JSON object"),
    "metadata of text": (
        GOOD,
        {"lora_adapter_metadata": '{"unet.lora_alpha": "1"}'},
        "no usable `unet.lora_alpha`",
    ),
    "metadata of infinity": (GOOD, {"lora_adapter_metadata": '{"unet.lora_alpha": 1e999}'}, "no usable"),
    "pattern no object": (GOOD, {"lora_adapter_metadata": '{"unet.alpha_pattern": [1]}'}, "no usable"),
    "pattern that takes for ever": (
        GOOD,
        {"lora_adapter_metadata": '{"unet.alpha_pattern": {"(a*)*b": 1}}'},
        r"`unet.alpha_pattern` of .* has the regular expression '\(a\*\)\*b'",
    ),
    "metadata of other weights beneath": (
        GOOD,
        {"lora_adapter_metadata": '{"unet.init_lora_weights": "pissa_niter_4"}'},
        "`unet.init_lora_weights` of .* is 'pissa_niter_4', which also changes",
    ),
    "metadata of DoRA": (
        GOOD,
        {"lora_adapter_metadata": '{"unet.use_dora": true}'},
        "`unet.use_dora` of .* is set",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_and_nothing_is_written(name: str, tmp_path: Path) -> None:
    tensors, metadata, message = BAD[name]
    file = tmp_path / "bad.safetensors"
    save_file(tensors, file, metadata or None)
    with pytest.raises(FrontendError, match=message) as refused:
        compile_to(stand_in(MODEL), tmp_path / "bundle", target="llvm", loras=(str(file),))
    assert str(file) in str(refused.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.safetensors"]


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FrontendError, match=r"none\.safetensors: file is missing"):
        merged((tmp_path / "none.safetensors", 1.0))


SHAPES = {"unet": {LAYER_IN_UNET: (WIDTH, WIDTH)}, "text_encoder": {}}


class Holder(torch.nn.Module):
    """The one layer of a network."""

    def get_submodule(self, target: str) -> torch.nn.Module:
        assert target in SHAPES["unet"]
        return torch.nn.Linear(WIDTH, WIDTH)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_damaged_files_never_surprise(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    file = tmp_path_factory.mktemp("damage") / "a.safetensors"
    save_file(GOOD, file, {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 2})})
    content = bytearray(file.read_bytes())
    (header,) = struct.unpack("<Q", content[:8])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, min(len(content), header + 8) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    choice = LoraChoice(file, 1.0)
    refused = None
    try:
        read_lora(choice, SHAPES).merge_into(Holder(), "unet")
    except DdimcacheError as error:
        refused = error
    assert refused is None or str(file) in str(refused)


def test_a_layer_of_one_pixel_may_be_written_either_way(tmp_path: Path, parts: Parts) -> None:
    key = next(key for key, (down, _) in parts.items() if down.shape[2:] == (1, 1))
    down, up = parts[key]
    forms = [parts[key], (down.flatten(1), up.flatten(1))]
    found = [
        merged((write_lora(tmp_path / f"{number}.safetensors", {key: form}, "peft"), 1.0))
        for number, form in enumerate(forms)
    ]
    first, second = (networks["unet"].get_submodule(key[1]).weight for networks in found)
    assert torch.equal(first, second)
    assert load_file(tmp_path / "1.safetensors")
