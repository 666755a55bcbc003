"""Block-wise reconstruction error: of which blocks, how large, and that the model is left as it was."""

import numpy as np
import pytest
import torch

from ddimcache.quality.sensitivity import (
    ROUNDINGS,
    blocks_of,
    load_pipeline,
    rounded,
    sensitivity,
)
from ddimcache.runtime.progress import SilentProgress
from tests.kit.family import single_thread, stand_in

pytestmark = pytest.mark.host


one_thread = pytest.fixture(scope="module", autouse=True)(single_thread)


@pytest.fixture(scope="module")
def pipeline(one_thread):
    return load_pipeline(stand_in("tiny-sd15"))


def test_groups_are_nearer_than_channels_and_halves_nearest():
    weight = np.random.default_rng(0).standard_normal((16, 64, 3, 3)).astype(np.float32)
    weight[0, 0, 0, 0] = 40  # one large weight spoils the scale of its whole channel
    kinds = ("int8", "int8-g64", "int8-g32", "fp16")
    errors = [np.square(ROUNDINGS[kind](weight) - weight).sum() for kind in kinds]
    assert errors[0] > 2 * errors[1] > 2 * errors[2] > 2 * errors[3] > 0
    assert np.unique(ROUNDINGS["int8"](weight)[0] / (40 / 127)).size <= 255


def test_weights_come_back(pipeline):
    before = {name: tensor.clone() for name, tensor in pipeline.unet.state_dict().items()}
    with rounded(pipeline.unet, ROUNDINGS["int8"]):
        changed = [
            name for name, tensor in pipeline.unet.state_dict().items() if (tensor != before[name]).any()
        ]
    assert "conv_in.weight" in changed
    assert not any(name.endswith("bias") for name in changed)
    for name, tensor in pipeline.unet.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_every_rounded_layer_is_in_one_block(pipeline):
    for name, network in (("unet", pipeline.unet), ("text_encoder", pipeline.text_encoder)):
        blocks = blocks_of(name, network)
        kinds = torch.nn.Conv2d | torch.nn.Linear | torch.nn.Embedding
        # The table of positions is looked up in a fixed order, and is left as it is.
        layers = {
            id(layer)
            for layer_name, layer in network.named_modules()
            if isinstance(layer, kinds) and not layer_name.endswith("position_embedding")
        }
        covered = [
            id(layer) for block in blocks.values() for layer in block.modules() if isinstance(layer, kinds)
        ]
        assert set(covered) == layers
        assert len(covered) == len(layers)
    assert not any(name.startswith("encoder") for name in blocks_of("vae_decoder", pipeline.vae))


def test_errors_of_every_block(pipeline):
    exact = sensitivity(pipeline, ["a cat"], 1.0, lambda weight, table: weight, SilentProgress())
    assert {each.component for each in exact} == {"text_encoder", "unet", "vae_decoder"}
    assert all(each.reconstruction_error == each.output_error == 0 for each in exact)
    found = sensitivity(pipeline, ["a cat"], 1.0, ROUNDINGS["int8"], SilentProgress())
    assert {each.block for each in found} == {each.block for each in exact}
    assert all(0 < each.reconstruction_error < 0.1 for each in found if each.parameters > 100)
    assert [each.output_error for each in found] == sorted(
        (each.output_error for each in found), reverse=True
    )
    # What the last convolution computes is the component's output.
    [last] = [each for each in found if (each.component, each.block) == ("unet", "conv_out")]
    assert last.reconstruction_error == pytest.approx(last.output_error, rel=1e-3)
