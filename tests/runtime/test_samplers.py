"""Euler, DPM-Solver++ 2M and LCM end where diffusers' schedulers end, on made-up outputs of a network."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ddimcache.compiler.frontend.scheduler import ddim_constants, other_samplers
from ddimcache.errors import UsageError
from ddimcache.runtime.noise import noise
from ddimcache.runtime.sampler import plan, schedule

pytestmark = pytest.mark.host

STABLE_DIFFUSION = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": False,
}
NUMBERS = 32
PICTURE = np.linspace(-2, 2, NUMBERS)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """diffusers warns of every key that one of the schedulers does not know."""
    logger = logging.getLogger("diffusers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(level)


def constants_of(config: dict[str, Any]) -> dict[str, Any]:
    """Return what the compiler writes into the manifest for a scheduler's configuration."""
    return ddim_constants(DDIMScheduler.from_config(config)) | other_samplers(config)


def published(sampler: str, config: dict[str, Any]) -> Any:
    """Return diffusers' scheduler of that name."""
    more: dict[str, Any] = {"use_karras_sigmas": True} if sampler.endswith("-karras") else {}
    if sampler.startswith("euler"):
        return EulerDiscreteScheduler.from_config(config, **more)
    if sampler == "lcm":
        return LCMScheduler.from_config(config)
    more |= {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint"}
    return DPMSolverMultistepScheduler.from_config(config, **more)


def network(latents: np.ndarray, timestep: float) -> np.ndarray:
    """Return an output that depends on all of its input."""
    return np.tanh(0.7 * latents + np.sin(timestep)) + 0.1 * latents


@dataclass
class Loop:
    """Timesteps and latents [N] of a whole loop, and about how large the latents were at most."""

    timesteps: list[float]
    latents: np.ndarray
    largest: float = 1.0


def ours(
    constants: dict[str, Any], sampler: str, steps: int, seed: int, strength: float | None = None
) -> Loop:
    """Run the loop with the numbers of the plan, as the device does."""
    made = plan(constants, steps, 1, sampler, strength)
    drawn = noise(seed, (steps, NUMBERS)).astype("float64")
    x, history = made.noise * drawn[0] + made.picture * PICTURE, np.zeros(NUMBERS)
    for step in made.steps:
        k = step.coefficients
        m = network(x, step.timestep)
        picture = k.p * x + k.q * m
        added = drawn[step.index + 1] if k.d != 0 else 0.0
        x = k.a * picture + k.b * (k.r * x + k.s * m) + k.c * history + k.d * added
        history = picture
    assert made.adds_noise == any(step.coefficients.d != 0 for step in made.steps) or len(made.steps) == 1
    return Loop([step.timestep for step in made.steps], x)


def theirs(
    config: dict[str, Any],
    sampler: str,
    steps: int,
    seed: int,
    monkeypatch: Any,
    strength: float | None = None,
) -> Loop:
    """Run the loop of diffusers' pipelines, with the same noise."""
    scheduler = published(sampler, config)
    scheduler.set_timesteps(steps)
    drawn = iter(torch.from_numpy(noise(seed, (steps, NUMBERS)).astype("float64")))
    monkeypatch.setattr("diffusers.schedulers.scheduling_lcm.randn_tensor", lambda *_, **__: next(drawn))
    begin = 0 if strength is None else steps - int(steps * strength)
    chosen = scheduler.timesteps[begin:]
    # As pipelines do, so that a timestep that is there twice is taken twice.
    scheduler.set_begin_index(begin)
    if strength is None:
        latents = next(drawn) * float(scheduler.init_noise_sigma)
    else:
        latents = scheduler.add_noise(torch.from_numpy(PICTURE), next(drawn), chosen[:1])
    for timestep in chosen:
        given = scheduler.scale_model_input(latents, timestep)
        output = torch.from_numpy(network(given.numpy(), float(timestep)))
        latents = scheduler.step(output, timestep, latents, return_dict=False)[0]
    if sampler.startswith("euler"):
        # Ours stay as the UNet takes them.
        latents = latents / (scheduler.sigmas[-1] ** 2 + 1) ** 0.5
    timesteps = [float(timestep) for timestep in chosen]
    return Loop(timesteps, latents.numpy(), float(scheduler.init_noise_sigma))


SAMPLERS = ["euler", "euler-karras", "dpm++2m", "dpm++2m-karras", "lcm"]
SPACINGS = ["leading", "trailing", "linspace"]


@st.composite
def configurations(draw: st.DrawFn) -> dict[str, Any]:
    zero_signal = draw(st.booleans())
    config = STABLE_DIFFUSION | {
        "num_train_timesteps": draw(st.sampled_from([100, 333, 1000])),
        "beta_schedule": draw(st.sampled_from(["linear", "scaled_linear", "squaredcos_cap_v2"])),
        "timestep_spacing": draw(st.sampled_from(SPACINGS)),
        "prediction_type": draw(st.sampled_from(["epsilon", "v_prediction", "sample"])),
        "rescale_betas_zero_snr": zero_signal,
        "final_sigmas_type": draw(st.sampled_from(["zero", "sigma_min"])),
        "use_karras_sigmas": draw(st.booleans()),
        "lower_order_final": draw(st.booleans()),
        "euler_at_final": draw(st.booleans()),
        "original_inference_steps": draw(st.sampled_from([10, 50, 64])),
        "timestep_scaling": draw(st.sampled_from([1.0, 10.0])),
    }
    return config


def compare(
    config: dict[str, Any], sampler: str, steps: int, monkeypatch: Any, strength: float | None = None
) -> None:
    # Rounding can add a surplus −1 to diffusers' trailing timesteps, which no step of ours goes to. Karras'
    # levels would end there.
    total = config.get("num_train_timesteps", 1000)
    assume(len(np.arange(total, 0, -total / steps)) == steps)
    expected = theirs(config, sampler, steps, 5, monkeypatch, strength)
    found = ours(constants_of(config), sampler, steps, 5, strength)
    np.testing.assert_allclose(found.timesteps, expected.timesteps, rtol=0, atol=2e-3)
    scale = np.abs(expected.latents).max()
    # Euler's latents in diffusers are as large as the first noise level (15 for Stable Diffusion, thousands
    # where hardly any signal is left), and are rounded to float32 before they shrink.
    rounding = 2.0**-22 * expected.largest / scale
    np.testing.assert_allclose(found.latents / scale, expected.latents / scale, rtol=0, atol=1e-4 + rounding)


@settings(deadline=None, max_examples=150)
@given(
    config=configurations(),
    sampler=st.sampled_from(SAMPLERS),
    strength=st.none() | st.sampled_from([0.01, 0.29, 0.5, 0.8, 1.0]),
    data=st.data(),
)
def test_a_loop_ends_where_diffusers_ends(config, sampler, strength, data) -> None:
    """Also one that begins with a picture, in the middle of the schedule."""
    lcm = sampler == "lcm"
    steps = data.draw(st.integers(1, 10 if lcm else 60), label="steps")
    assume(strength is None or int(steps * strength) >= 1)
    is_karras = sampler.endswith("-karras") or config["use_karras_sigmas"]
    assume(not (sampler.startswith("dpm") and is_karras and config["beta_schedule"] == "squaredcos_cap_v2"))
    # Where no signal is left the noise says nothing of the picture; diffusers divides by 0.
    assume(not (lcm and config["rescale_betas_zero_snr"] and config["prediction_type"] == "epsilon"))
    with pytest.MonkeyPatch.context() as monkeypatch:
        compare(config, sampler, steps, monkeypatch, strength)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 4, 14, 15, 20, 50])
def test_the_noise_schedule_of_stable_diffusion(sampler: str, steps: int, monkeypatch) -> None:
    compare(STABLE_DIFFUSION, sampler, steps, monkeypatch)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(("steps", "strength"), [(20, 0.5), (14, 0.5), (100, 0.01), (8, 1.0)])
@pytest.mark.parametrize("ends", ["zero", "sigma_min"])
def test_the_last_steps_of_a_schedule(
    sampler: str, steps: int, strength: float, ends: str, monkeypatch
) -> None:
    config = STABLE_DIFFUSION | {"final_sigmas_type": ends, "original_inference_steps": 100}
    compare(config, sampler, steps, monkeypatch, strength)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_euler_begins_with_the_largest_noise_though_the_second_step_has_it(
    spacing: str, prediction: str, monkeypatch
) -> None:
    """The last moment of training has no signal, which is counted as more than the one before it has."""
    config = STABLE_DIFFUSION | {
        "beta_schedule": "linear",
        "beta_end": 0.02,
        "rescale_betas_zero_snr": True,
        "timestep_spacing": spacing,
        "prediction_type": prediction,
    }
    compare(config, "euler", 1000, monkeypatch)


def test_the_variance_of_a_folder_of_ddpm_is_none_of_the_solver(monkeypatch) -> None:
    compare(STABLE_DIFFUSION | {"variance_type": "fixed_small"}, "dpm++2m", 20, monkeypatch)


def test_known_values() -> None:
    constants = constants_of(STABLE_DIFFUSION)
    assert [step.timestep for step in schedule(constants, 4, 1, "lcm")] == [999, 759, 499, 259]
    made = plan(constants, 20, 1, "euler")
    assert (made.steps[0].timestep, made.steps[-1].timestep) == (999, 0)
    assert made.steps[1].timestep == pytest.approx(999 * 18 / 19)
    solver = schedule(constants, 20, 5, "dpm++2m")
    assert [step.coefficients.c != 0 for step in solver] == [False] + [True] * 18 + [False]
    assert [step.index for step in solver if step.is_full] == [0, 5, 10, 15]


def test_lcm_refuses_a_cache_and_more_steps_than_it_was_distilled_for() -> None:
    constants = constants_of(STABLE_DIFFUSION)
    with pytest.raises(UsageError, match=r"--cache-interval: lcm's few steps are too far apart .* use 1"):
        schedule(constants, 4, 2, "lcm")
    with pytest.raises(UsageError, match=r"--steps: 51 steps cannot be taken; with lcm .* takes 1 to 50"):
        schedule(constants, 51, 1, "lcm")
    assert len(schedule(constants, 50, 1, "lcm")) == 50


def test_an_unknown_sampler_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--sampler: 'heun' is none of: ddim, euler, .*, lcm$"):
        schedule(constants_of(STABLE_DIFFUSION), 4, 1, "heun")


def test_steps_without_length_are_refused() -> None:
    """Rounded timesteps meet, and the solver would divide by the distance."""
    with pytest.raises(UsageError, match=r"--steps: step .* of 1000 has no length .* take fewer"):
        schedule(constants_of(STABLE_DIFFUSION), 1000, 1, "dpm++2m")


@pytest.mark.parametrize(
    ("sampler", "change"),
    [
        ("euler", {"use_exponential_sigmas": True}),
        ("euler", {"interpolation_type": "log_linear"}),
        ("euler", {"timestep_type": "continuous"}),
        ("dpm++2m", {"use_lu_lambdas": True}),
        ("dpm++2m", {"lambda_min_clipped": -5.1}),
        ("dpm++2m-karras", {"beta_schedule": "squaredcos_cap_v2"}),
        ("dpm++2m", {"beta_schedule": "squaredcos_cap_v2", "use_karras_sigmas": True}),
        ("dpm++2m", {"final_sigmas_type": "other"}),
        ("dpm++2m", {"variance_type": "learned_range"}),
        ("lcm", {"original_inference_steps": 2000}),
        ("lcm", {"timestep_scaling": "many"}),
    ],
)
def test_a_variant_that_is_not_supported_leaves_a_sampler_out(sampler: str, change: dict) -> None:
    constants = constants_of(STABLE_DIFFUSION | change)
    with pytest.raises(UsageError, match=r"--sampler: this model cannot be sampled so: .* such as ddim"):
        schedule(constants, 4, 1, sampler)
    assert len(schedule(constants, 4, 1, "ddim")) == 4


def test_lcm_with_a_noise_schedule_of_its_own_is_left_out() -> None:
    """Where the configuration says nothing, LCM's defaults are others than DDIM's."""
    left = {key: value for key, value in STABLE_DIFFUSION.items() if not key.startswith("beta")}
    assert constants_of(left)["lcm"] is None
    assert constants_of(STABLE_DIFFUSION)["lcm"] == {"original_steps": 50, "timestep_scaling": 10.0}


def test_minus_infinity_as_diffusers_writes_it_is_no_variant() -> None:
    config = dict(DPMSolverMultistepScheduler(**{"beta_start": 0.00085, "beta_end": 0.012}).config)
    assert config["lambda_min_clipped"] == -float("inf")
    assert other_samplers(config)["dpmpp_2m"] is not None
