"""The folder of the embedded model: it loads as published pipelines do and has their topology."""

import json

import numpy as np
import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from PIL import Image
from safetensors import safe_open
from transformers import CLIPTokenizer

from ddimcache.compiler.frontend.pipeline_folder import load_pipeline_folder
from ddimcache.models.shapes import FINGERPRINT, train_unet
from ddimcache.models.shapes.drawing import drawings_with_cells
from ddimcache.models.shapes.evaluate import paint
from ddimcache.models.shapes.export import WEIGHTS
from ddimcache.models.shapes.grammar import WORDS, scenes_to_ask
from ddimcache.models.shapes.judge import read_scores
from ddimcache.models.shapes.latents import SCALING_FACTOR, latents_of_cells
from ddimcache.models.shapes.networks import new_autoencoder, new_unet
from ddimcache.models.shapes.run_folder import Budget, RunFolder
from ddimcache.models.shapes.tokenizer import vocabulary, write_tokenizer
from ddimcache.models.shapes.train_autoencoder import measure
from ddimcache.models.shapes.train_unet import TrainingAttention
from ddimcache.quality.sensitivity import load_pipeline
from tests.kit.family import single_thread

pytestmark = pytest.mark.host

LARGEST_FOLDER = 12_000_000  # bytes


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    yield from single_thread()


@pytest.fixture(scope="module")
def pipeline():
    return load_pipeline(WEIGHTS)


def test_every_word_of_the_grammar_is_one_token():
    tokenizer = CLIPTokenizer.from_pretrained(WEIGHTS / "tokenizer")
    for word in WORDS:
        assert tokenizer.tokenize(word) == [word + "</w>"]
    ids = tokenizer("A small RED circle", padding="max_length", max_length=77).input_ids
    assert len(ids) == 77
    assert tokenizer.convert_ids_to_tokens(ids[:6]) == [
        "<|startoftext|>",
        "a</w>",
        "small</w>",
        "red</w>",
        "circle</w>",
        "<|endoftext|>",
    ]


def test_unknown_words_become_tokens_of_the_vocabulary():
    tokenizer = CLIPTokenizer.from_pretrained(WEIGHTS / "tokenizer")
    ids = tokenizer("a Photograph, 8k: é ☃ of a red circle").input_ids
    assert max(ids) < len(tokenizer)
    assert tokenizer.convert_tokens_to_ids("circle</w>") in ids


def test_tokenizer_files_agree(tmp_path):
    write_tokenizer(tmp_path)
    ids, merges = vocabulary()
    assert json.loads((tmp_path / "vocab.json").read_text()) == ids
    assert (tmp_path / "merges.txt").read_text().splitlines()[1:] == [" ".join(pair) for pair in merges]
    fast = json.loads((tmp_path / "tokenizer.json").read_text())["model"]
    assert fast["vocab"] == ids
    for name in ("vocab.json", "merges.txt", "tokenizer.json"):
        assert (WEIGHTS / "tokenizer" / name).read_bytes() == (tmp_path / name).read_bytes()


def test_topology_is_that_of_stable_diffusion(pipeline):
    unet, autoencoder = pipeline.unet.config, pipeline.vae.config
    assert tuple(unet.down_block_types) == ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    assert tuple(unet.up_block_types) == ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    assert unet.mid_block_type == "UNetMidBlock2DCrossAttn"
    assert unet.layers_per_block == autoencoder.layers_per_block == 2
    assert unet.in_channels == unet.out_channels == autoencoder.latent_channels == 4
    assert unet.cross_attention_dim == pipeline.text_encoder.config.hidden_size
    assert len(autoencoder.block_out_channels) == 4
    for config in (unet, autoencoder):
        assert all(
            width % 16 == 0 and width % config.norm_num_groups == 0 for width in config.block_out_channels
        )
    scheduler = pipeline.scheduler.config
    assert scheduler.prediction_type == "epsilon"
    assert (scheduler.beta_start, scheduler.beta_end, scheduler.beta_schedule) == (
        0.00085,
        0.012,
        "scaled_linear",
    )
    assert not scheduler.clip_sample
    assert not scheduler.set_alpha_to_one
    assert pipeline.safety_checker is None
    assert pipeline.feature_extractor is None


def test_folder_is_small_and_in_half_precision():
    assert sum(file.stat().st_size for file in WEIGHTS.rglob("*") if file.is_file()) <= LARGEST_FOLDER
    files = list(WEIGHTS.rglob("*.safetensors"))
    assert len(files) == 3
    for file in files:
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a mapping)
                tensor = tensors.get_tensor(name)
                assert tensor.dtype in (torch.float16, torch.int64), name
                assert torch.isfinite(tensor.float()).all(), name


def test_bundles_of_it_are_known_by_its_fingerprint():
    assert load_pipeline_folder(WEIGHTS).fingerprint() == FINGERPRINT


def test_pictures_show_what_was_asked(pipeline):
    """A floor far below the accuracy in the README, as few captions are painted."""
    scenes = scenes_to_ask(8, seed=3, held_out=True)
    pictures = paint(pipeline, [scene.caption() for scene in scenes], steps=10, guidance=2.0, seed=3)
    shares = read_scores(pictures, scenes).by_attribute
    assert shares["background"] >= 0.75, shares
    assert shares["colour"] >= 0.6, shares


def test_new_unet_returns_its_input_at_first():
    torch.manual_seed(0)
    noise = torch.randn(2, 4, 16, 16)
    with torch.no_grad():
        output = new_unet()(noise, torch.tensor([999, 500]), torch.randn(2, 77, 64)).sample
    assert (output - noise).square().mean() < 0.01


def test_new_autoencoder_paints_cells_colours_at_first():
    """Colours survive the untrained autoencoder, whose normalisations would take them away."""
    torch.manual_seed(0)
    pictures, cells, _ = drawings_with_cells(6, seed=11)
    decoded, restored, painted = measure(new_autoencoder(), pictures, latents_of_cells(cells))
    assert min(decoded, restored) > 20
    assert painted.shape == pictures.shape


def test_autoencoder_follows_the_prescribed_latents(pipeline):
    pictures, cells, scenes = drawings_with_cells(12, seed=12, held_out=True)
    decoded, restored, painted = measure(pipeline.vae, pictures, latents_of_cells(cells))
    pipeline.vae.eval()
    assert pipeline.vae.config.scaling_factor == SCALING_FACTOR
    assert min(decoded, restored) > 27
    assert read_scores(painted, scenes).all_right >= 0.9


def test_attention_for_training_equals_the_usual():
    torch.manual_seed(0)
    unet = new_unet()
    inputs = torch.randn(1, 4, 16, 16), torch.tensor([500]), torch.randn(1, 77, 64)
    with torch.no_grad():
        usual = unet(*inputs).sample
        unet.set_attn_processor(TrainingAttention())
        torch.testing.assert_close(unet(*inputs).sample, usual, atol=1e-5, rtol=1e-5)


def test_checkpoints_come_back_and_time_is_counted(tmp_path):
    folder = RunFolder(tmp_path / "run")
    assert folder.load("unet") is None
    folder.save("unet", {"step": 3, "model": {"weight": torch.ones(2)}})
    state = folder.load("unet")
    assert state is not None
    assert state["step"] == 3
    assert not list(folder.path.glob("*.partial"))
    folder.log(stage="unet", step=3)
    folder.save_grid("grid", np.zeros((3, 4, 4, 3), np.uint8), 2)
    assert json.loads((folder.path / "log.jsonl").read_text()) == {"stage": "unet", "step": 3}
    budget = Budget(minutes=1, peak_rate=1.0, spent=30.0)
    assert budget.rate() == 1
    budget.spent = 48.0
    assert 0.4 < budget.rate() < 0.6
    budget.spent = 60.0
    assert budget.rate() == pytest.approx(0.01)


def test_training_of_the_unet_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(train_unet, "_PREVIEW_STEPS", 1)
    monkeypatch.setattr(train_unet, "_BATCH", 2)
    torch.manual_seed(0)
    # Wide enough for what is asked here, which is not what it learns.
    small = {**new_unet().config, "block_out_channels": (32, 32), "layers_per_block": 1}
    small.update(down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"))
    small.update(up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))
    monkeypatch.setattr(train_unet, "new_unet", lambda: UNet2DConditionModel.from_config(small))
    data = {
        "latents": torch.randn(6, 4, 16, 16) * SCALING_FACTOR,
        "deviation": SCALING_FACTOR,
        "caption": torch.tensor([0, 1, 2, 0, 1, 2]),
        "states": torch.randn(4, 77, 64),  # the last of the empty caption
    }
    folder = RunFolder(tmp_path / "run")
    grid = folder.path / "unet.png"
    weights = []
    for stopped in (1, 2):
        spent = 0.0 if stopped == 1 else folder.load("unet")["spent"]
        minutes = (spent + 1e-3) / 60  # for one step, whatever it takes
        train_unet.train(folder, data, minutes, seed=3)
        state = folder.load("unet")
        assert state["step"] == stopped
        assert state["spent"] > spent
        weights.append(state["model"])
        assert Image.open(grid).size == (8 * (16 * 4 + 2), 1 * (16 * 4 + 2))
        grid.unlink()
        train_unet.train(folder, data, minutes, seed=3)  # its time is spent: nothing happens
        assert folder.load("unet")["step"] == stopped
        assert not grid.exists()
    assert any((weights[0][name] != tensor).any() for name, tensor in weights[1].items())
    lines = [json.loads(line) for line in (folder.path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert all({"seconds", "low_noise", "high_noise", "rate"} <= set(line) for line in lines)
    assert isinstance(train_unet.averaged(folder), torch.nn.Module)


def test_the_log_of_the_shipped_weights_is_kept():
    text = (WEIGHTS.parent / "training-log.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert "Settings:" in lines[0]["text"]
    for stage in ("text", "autoencoder", "unet"):
        steps = [line for line in lines if line["stage"] == stage]
        assert len(steps) > 5
        assert all(line["seconds"] > 0 for line in steps)
