"""A pipeline folder loads to what diffusers and transformers load, in all the forms in which it is saved."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from hypothesis import HealthCheck, given, settings
from safetensors.numpy import load_file, save_file

from ddimcache.compiler.frontend.pipeline_folder import load_pipeline_folder
from ddimcache.compiler.frontend.unet import import_unet
from ddimcache.models.stand_in import write_stand_in
from tests.kit.damage import INDEX, SCHEDULER_CONFIG, TEXT, UNET, UNET_CONFIG, VAE, set_keys
from tests.kit.family import TINY, copy_stand_in, family_members, load_everything, single_thread, stand_in
from tests.kit.reference import diffusers_pipeline

pytestmark = pytest.mark.host
one_thread = pytest.fixture(scope="module", autouse=True)(single_thread)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return copy_stand_in("tiny-sd15", tmp_path / "model")


def _equal(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    expected, found = theirs.state_dict(), ours.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == torch.float32
        assert torch.equal(found[name], tensor), name
    assert not ours.training


@pytest.mark.parametrize("preset", TINY)
def test_weights_are_those_that_the_libraries_read(preset: str) -> None:
    loaded = load_everything(stand_in(preset, "float16"))
    published = diffusers_pipeline(stand_in(preset, "float16"))
    _equal(loaded.load_unet(), published.unet)
    _equal(loaded.load_vae(), published.vae)
    _equal(loaded.load_text_encoder(), published.text_encoder)
    ids = torch.arange(loaded.text_length)[None]
    with torch.no_grad():
        assert torch.equal(loaded.load_text_encoder()(ids)[0], published.text_encoder(ids)[0])
    config = published.unet.config
    assert loaded.latent_channels == config.in_channels
    assert list(np.broadcast_to(config.sample_size, 2)) == list(loaded.latent_size)
    assert loaded.vae_scale == published.vae_scale_factor
    assert loaded.text_width == published.text_encoder.config.hidden_size
    assert loaded.unet_config["use_linear_projection"] == config.use_linear_projection


def test_what_diffusers_saves_is_read(folder: Path, tmp_path: Path) -> None:
    published = diffusers_pipeline(folder)
    published.save_pretrained(tmp_path / "saved", max_shard_size="100KB")
    assert (tmp_path / "saved/unet/diffusion_pytorch_model.safetensors.index.json").is_file()
    assert not (tmp_path / "saved/tokenizer/vocab.json").is_file()
    loaded = load_everything(tmp_path / "saved")
    _equal(loaded.load_unet(), published.unet)
    _equal(loaded.load_text_encoder(), published.text_encoder)
    assert len(loaded.unet_weights.files) > 1


def test_of_weights_that_are_there_twice_those_are_read_that_the_libraries_read(
    folder: Path, tmp_path: Path
) -> None:
    """One file of another model, or of half precision, lies beside the set of files."""
    saved = tmp_path / "saved"
    diffusers_pipeline(folder).save_pretrained(saved, max_shard_size="100KB")
    for name in (UNET, VAE, TEXT):
        others = {key: np.ones_like(value) for key, value in load_file(folder / name).items()}
        save_file(others, saved / name)
        save_file(others, (saved / name).with_suffix(".fp16.safetensors"))
    loaded, theirs = load_everything(saved), diffusers_pipeline(saved)
    _equal(loaded.load_unet(), theirs.unet)
    _equal(loaded.load_vae(), theirs.vae)
    _equal(loaded.load_text_encoder(), theirs.text_encoder)
    for name in (UNET, VAE, TEXT):
        (saved / name).unlink()
    assert load_everything(saved).text_encoder_weights.files[0].name.startswith("model-00001-of")


def test_half_precision_variant_is_read_where_it_is_alone(folder: Path) -> None:
    for name in (UNET, VAE, TEXT):
        file = folder / name
        save_file(
            {key: value.astype(np.float16) for key, value in load_file(file).items()},
            file.with_suffix(".fp16.safetensors"),
        )
    assert [file.name for file in load_pipeline_folder(folder).unet_weights.files] == [Path(UNET).name]
    for name in (UNET, VAE, TEXT):
        (folder / name).unlink()
    loaded = load_everything(folder)
    assert loaded.unet_weights.files[0].name == "diffusion_pytorch_model.fp16.safetensors"
    assert next(loaded.load_unet().parameters()).dtype == torch.float32


def test_names_of_older_files_are_read(folder: Path) -> None:
    """diffusers before 0.15 and transformers before 4.31 wrote these, and the published files hold them."""
    expected = load_everything(stand_in("tiny-sd15"))
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def older(name: str) -> str:
        return re.sub(
            r"(attentions\.0)\.(to_q|to_k|to_v|to_out\.0)\.", lambda m: f"{m[1]}.{old[m[2]]}.", name
        )

    vae = {older(name): tensor for name, tensor in load_file(folder / VAE).items()}
    assert "decoder.mid_block.attentions.0.proj_attn.bias" in vae
    save_file(vae, folder / VAE)
    text = load_file(folder / TEXT)
    assert all(name.startswith("text_model.") for name in text)
    text["text_model.embeddings.position_ids"] = np.arange(77)[None]
    save_file(text, folder / TEXT)
    loaded = load_everything(folder)
    _equal(loaded.load_vae(), expected.load_vae())
    _equal(loaded.load_text_encoder(), expected.load_text_encoder())


@pytest.mark.parametrize(
    ("version", "size"),
    [("0.2.2", 32), ("0.8.1", 96), ("0.8.1", [32, 40]), ("0.9.0.dev0", 32), ("0.10.2", 32)],
)
def test_the_default_size_is_that_of_the_pipeline(version: str, size: object, folder: Path) -> None:
    """Files of diffusers before 0.9 say 32 where they mean 64, and its pipeline knows."""
    set_keys(UNET_CONFIG, sample_size=size, _diffusers_version=version)(folder)
    published = diffusers_pipeline(folder).unet.config.sample_size
    assert load_pipeline_folder(folder).latent_size == tuple(np.broadcast_to(published, 2))


def test_a_width_of_context_for_every_level_is_imported(folder: Path) -> None:
    set_keys(UNET_CONFIG, cross_attention_dim=[32, 32])(folder)
    loaded = load_pipeline_folder(folder)
    imported = import_unet(loaded.load_unet(), 1, 8, 8, loaded.text_length, "float32")
    context = imported.module["main"].params[2].ty.shape.values
    assert [int(extent) for extent in context] == [1, loaded.text_length, 32]


def test_a_pipeline_for_pictures_has_the_same_parts(folder: Path) -> None:
    StableDiffusionImg2ImgPipeline(**diffusers_pipeline(folder).components).save_pretrained(folder / "saved")
    _equal(load_everything(folder / "saved").load_unet(), load_pipeline_folder(folder).load_unet())


def test_a_safety_checker_and_unknown_keys_are_left_alone(folder: Path) -> None:
    set_keys(INDEX, safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"])(folder)
    set_keys(UNET_CONFIG, _name_or_path="somewhere", decay=0.999)(folder)
    assert load_everything(folder).unet_config["layers_per_block"] == 2


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(preset=family_members())
def test_every_member_of_the_family_loads(preset, tmp_path_factory) -> None:
    path = write_stand_in(preset, tmp_path_factory.mktemp("member") / "model", dtype="float32")
    loaded = load_everything(path)
    assert loaded.text_width == preset.text_encoder["hidden_size"]
    assert loaded.tokenizer_constants.pad_token == preset.pad_token


def test_fingerprint_is_of_contents_not_of_place_or_time(folder: Path) -> None:
    first = load_pipeline_folder(stand_in("tiny-sd15")).fingerprint()
    assert re.fullmatch("[0-9a-f]{64}", first)
    os.utime(folder / UNET, (0, 0))
    assert load_pipeline_folder(folder).fingerprint() == first
    assert load_pipeline_folder(stand_in("tiny-sd15", "float16")).fingerprint() != first
    for name in (UNET, VAE, TEXT):
        data = bytearray((folder / name).read_bytes())
        data[-1] ^= 1
        (folder / name).write_bytes(data)
        changed = load_pipeline_folder(folder).fingerprint()
        assert changed != first
        first = changed
    set_keys(SCHEDULER_CONFIG, beta_end=0.02)(folder)
    assert load_pipeline_folder(folder).fingerprint() != first
