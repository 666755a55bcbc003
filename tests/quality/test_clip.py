"""CLIP score against transformers' own pipeline, and folders that are no CLIP."""

import json
import shutil

import numpy as np
import pytest
import torch
from transformers import CLIPModel, CLIPTokenizer

from ddimcache.errors import FrontendError
from ddimcache.quality.clip import ClipScorer
from tests.kit.real_models import write_clip

pytestmark = pytest.mark.host

PROMPTS = ["a red circle", "", "naïve 🦊 " + "a word after another " * 9]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip") / "clip")


@pytest.fixture
def own(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "clip")


def expected_cosines(folder, pictures):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    model = CLIPModel.from_pretrained(folder).eval()
    texts = CLIPTokenizer.from_pretrained(folder)(
        PROMPTS, padding="max_length", max_length=16, truncation=True, return_tensors="pt"
    )
    images = CLIPImageProcessorPil.from_pretrained(folder)(list(pictures), return_tensors="pt")
    with torch.inference_mode():
        found = model(**texts, pixel_values=images["pixel_values"])
        return (found.logits_per_image / model.logit_scale.exp()).diag()


@pytest.mark.parametrize("size", [(40, 56), (33, 33), (20, 17)])
def test_scores_are_those_of_transformers(folder, size):
    pictures = np.random.default_rng(size[0]).integers(0, 256, (3, *size, 3), np.uint8)
    scorer, expected = ClipScorer(folder), expected_cosines(folder, pictures)
    for place, cosine in enumerate(expected):
        found = scorer.score(pictures[place : place + 1], PROMPTS[place : place + 1])
        assert found == pytest.approx(100 * max(float(cosine), 0), abs=0.02)
    assert scorer.score(pictures, PROMPTS) == pytest.approx(
        100 * float(expected.clamp(min=0).mean()), abs=0.02
    )
    assert len({round(float(each), 3) for each in expected}) == 3


def test_more_pictures_than_are_taken_at_once(folder):
    scorer = ClipScorer(folder)
    pictures = np.random.default_rng(0).integers(0, 256, (19, 24, 24, 3), np.uint8)
    prompts = [f"{number} things" for number in range(19)]
    alone = [scorer.score(pictures[i : i + 1], prompts[i : i + 1]) for i in range(19)]
    assert scorer.score(pictures, prompts) == pytest.approx(np.mean(alone), abs=1e-3)


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_folders_that_are_no_clip(own, tmp_path):
    def refused(message):
        with pytest.raises(FrontendError, match=message):
            ClipScorer(own)

    preprocessor = own / "preprocessor_config.json"
    kept = preprocessor.read_text()
    for changes, message in (
        ({"crop_size": {"height": 32, "width": 32}}, "`crop_size` is 32, but the model takes pictures of 24"),
        ({"crop_size": "all"}, "`crop_size` is 'all', but the model takes pictures of 24"),
        ({"size": {"shortest_edge": 8}}, "`size` is .*, but the model takes pictures of 24"),
        ({"image_mean": [0.5]}, r"`image_mean` is \[0.5\], not three numbers"),
        ({"image_std": [1, 1, 0]}, "`image_std` is .*, not three numbers"),
    ):
        edit(preprocessor, **changes)
        refused(message)
        preprocessor.write_text(kept)
    pictures = np.random.default_rng(1).integers(0, 256, (3, 24, 30, 3), np.uint8)
    score = ClipScorer(own).score(pictures, PROMPTS)
    edit(preprocessor, crop_size=24, size=24)  # as the first published folders say it
    assert ClipScorer(own).score(pictures, PROMPTS) == score
    preprocessor.unlink()
    assert ClipScorer(own).score(pictures, PROMPTS) == score  # CLIP's own preprocessing

    weights = own / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-8])
    refused("not a whole safetensors file")
    weights.unlink()
    refused("model.safetensors: weights file is missing")
    (own / "pytorch_model.bin").write_bytes(b"")
    refused("is a pickle, which can run code when it is read")
    weights.write_bytes(whole)

    config = own / "config.json"
    kept = config.read_text()
    text = json.loads(kept)["text_config"]
    for changes, message in (
        ({"model_type": "clip_text_model"}, "`model_type` is 'clip_text_model', not 'clip'"),
        ({"projection_dim": 13}, "has shape .*, but config.json asks for"),
        ({"text_config": {**text, "num_hidden_layers": 10**9}}, "`num_hidden_layers` is 1000000000, not a"),
        ({"text_config": {**text, "vocab_size": 601}}, "but config.json asks for"),
    ):
        config.write_text(kept)
        edit(config, **changes)
        refused(message)
    config.write_text(kept)
    (own / "vocab.json").unlink()
    refused("vocab.json: file is missing")
    config.unlink()
    refused("config.json: file is missing")
