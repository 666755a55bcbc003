"""The constants in a bundle are those of the pipeline that diffusers would run."""

import json
import math

import pytest
from diffusers import DDIMScheduler, LCMScheduler
from hypothesis import given, settings

from ddimcache.compiler.frontend.pipeline_folder import load_pipeline_folder
from ddimcache.compiler.frontend.scheduler import sampler_constants
from ddimcache.manifest import SamplerConstants
from ddimcache.records import from_json
from tests.kit.family import TINY, copy_stand_in, schedulers, stand_in
from tests.kit.reference import diffusers_pipeline

pytestmark = pytest.mark.host


@pytest.mark.parametrize("preset", TINY)
def test_constants_are_those_of_the_pipeline(preset: str) -> None:
    constants = sampler_constants(load_pipeline_folder(stand_in(preset)))
    published = diffusers_pipeline(stand_in(preset))
    config = published.scheduler.config
    assert constants["alphas_cumprod"] == published.scheduler.alphas_cumprod.tolist()
    assert constants["final_alpha_cumprod"] == float(published.scheduler.final_alpha_cumprod)
    for key in ("num_train_timesteps", "prediction_type", "timestep_spacing", "steps_offset", "clip_sample"):
        assert constants[key] == config[key], key
    assert constants["vae_scaling_factor"] == published.vae.config.scaling_factor
    assert constants["init_noise_sigma"] == 1.0
    assert json.loads(json.dumps(constants)) == constants


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_outdated_configurations_are_corrected_as_the_pipeline_corrects_them(tmp_path) -> None:
    folder = copy_stand_in("tiny-sd15", tmp_path / "model")
    file = folder / "scheduler" / "scheduler_config.json"
    config = json.loads(file.read_text())
    config["_class_name"] = "DDIMScheduler"
    del config["steps_offset"], config["clip_sample"]
    file.write_text(json.dumps(config))
    constants = sampler_constants(load_pipeline_folder(folder))
    published = diffusers_pipeline(folder).scheduler.config
    assert (constants["steps_offset"], constants["clip_sample"]) == (1, False)
    assert (published["steps_offset"], published["clip_sample"]) == (1, False)


@settings(deadline=None, max_examples=20)
@given(config=schedulers())
def test_every_noise_schedule_is_that_of_diffusers(config, tmp_path_factory) -> None:
    folder = copy_stand_in("tiny-bk", tmp_path_factory.mktemp("schedule") / "model")
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    constants = sampler_constants(load_pipeline_folder(folder))
    expected = DDIMScheduler.from_config(config)
    assert constants["alphas_cumprod"] == expected.alphas_cumprod.tolist()
    assert len(constants["alphas_cumprod"]) == config["num_train_timesteps"]
    assert constants["prediction_type"] == config["prediction_type"]


def test_other_samplers_take_their_own_settings(tmp_path) -> None:
    folder = copy_stand_in("tiny-bk", tmp_path / "model")
    file = folder / "scheduler" / "scheduler_config.json"
    config = json.loads(file.read_text())
    for key in ("steps_offset", "timestep_spacing"):
        config.pop(key, None)
    file.write_text(json.dumps(config | {"use_karras_sigmas": True, "lambda_min_clipped": -math.inf}))
    constants = sampler_constants(load_pipeline_folder(folder))
    # Each where the file says nothing: DDIM's default is leading, theirs linspace.
    assert constants["timestep_spacing"] == "leading"
    for name in ("euler", "dpmpp_2m"):
        assert constants[name]["timestep_spacing"] == "linspace"
        assert (constants[name]["steps_offset"], constants[name]["karras"]) == (1, True)
    assert constants["lcm"] == {"original_steps": 50, "timestep_scaling": 10.0}
    assert from_json(SamplerConstants, json.loads(json.dumps(constants))).euler is not None


def test_a_folder_with_the_scheduler_of_lcm(tmp_path) -> None:
    """As a pipeline is saved that an LCM-LoRA was merged into."""
    folder = copy_stand_in("tiny-bk", tmp_path / "model")
    pipeline = diffusers_pipeline(folder)
    pipeline.scheduler = LCMScheduler.from_config(pipeline.scheduler.config, original_inference_steps=100)
    pipeline.save_pretrained(tmp_path / "saved")
    constants = sampler_constants(load_pipeline_folder(tmp_path / "saved"))
    assert constants["alphas_cumprod"] == pipeline.scheduler.alphas_cumprod.tolist()
    assert constants["lcm"] == {"original_steps": 100, "timestep_scaling": 10.0}


def test_trained_betas_are_taken(tmp_path) -> None:
    folder = copy_stand_in("tiny-bk", tmp_path / "model")
    file = folder / "scheduler" / "scheduler_config.json"
    config = json.loads(file.read_text()) | {"trained_betas": [0.1, 0.2, 0.5], "num_train_timesteps": 3}
    file.write_text(json.dumps(config))
    alphas = sampler_constants(load_pipeline_folder(folder))["alphas_cumprod"]
    assert alphas == pytest.approx([0.9, 0.72, 0.36])
