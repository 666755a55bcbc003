"""The sampler is held against diffusers' ``DDIMScheduler``, number by number."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ddimcache.compiler.frontend.scheduler import ddim_constants
from ddimcache.errors import UsageError
from ddimcache.runtime.sampler import StepCoefficients, schedule

pytestmark = pytest.mark.host

SPACINGS = ["leading", "trailing", "linspace"]


@st.composite
def scheduler_arguments(draw: st.DrawFn) -> dict:
    total = draw(st.sampled_from([1, 2, 10, 77, 100, 333, 1000]), label="training steps")
    betas = draw(st.sampled_from(["linear", "scaled_linear", "squaredcos_cap_v2", "trained"]), label="betas")
    zero_signal = total > 1 and draw(st.booleans(), label="zero terminal signal")
    arguments = {
        "num_train_timesteps": total,
        "prediction_type": draw(st.sampled_from(["epsilon", "v_prediction", "sample"])),
        "timestep_spacing": draw(st.sampled_from(SPACINGS)),
        "steps_offset": draw(st.integers(0, 1)),
        "clip_sample": draw(st.booleans()),
        "clip_sample_range": draw(st.sampled_from([1.0, 3.5])),
        "set_alpha_to_one": draw(st.booleans()),
        "rescale_betas_zero_snr": zero_signal,
        "beta_start": draw(st.floats(1e-5, 1e-3)),
        "beta_end": draw(st.floats(2e-3, 3e-2)),
    }
    if betas == "trained":
        arguments["trained_betas"] = np.linspace(0.001, min(0.3, 12 / total), total).tolist()
    else:
        arguments["beta_schedule"] = betas
    return arguments


def timesteps(constants: dict, steps: int) -> list[int]:
    return [step.timestep for step in schedule(constants, steps, 1)]


def fused(coefficients: StepCoefficients) -> tuple[float, float]:
    """Return (u, w) with x' = u·x + w·m, for a step that does not clamp."""
    c = coefficients
    assert c.clip is None
    return c.a * c.p + c.b * c.r, c.a * c.q + c.b * c.s


def _diffusers_timesteps(scheduler: DDIMScheduler, steps: int) -> list[int]:
    """Return diffusers' timesteps, less the surplus −1 that rounding can add to trailing ones."""
    scheduler.set_timesteps(steps)
    values = scheduler.timesteps.tolist()
    assert values[steps:] in ([], [-1])
    return values[:steps]


@settings(deadline=None, max_examples=60)
@given(arguments=scheduler_arguments(), data=st.data())
def test_timesteps_are_those_of_diffusers(arguments, data) -> None:
    scheduler = DDIMScheduler(**arguments)
    steps = data.draw(st.integers(1, arguments["num_train_timesteps"]), label="steps")
    constants = ddim_constants(scheduler)
    assume(_runs_through(constants, steps))
    assert timesteps(constants, steps) == _diffusers_timesteps(scheduler, steps)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_every_number_of_steps_of_a_thousand(spacing: str) -> None:
    scheduler = DDIMScheduler(timestep_spacing=spacing, steps_offset=1)
    constants = ddim_constants(scheduler)
    for steps in range(1, 1001):
        assert timesteps(constants, steps) == _diffusers_timesteps(scheduler, steps), steps


@settings(deadline=None, max_examples=150)
@given(arguments=scheduler_arguments(), data=st.data())
def test_a_step_is_that_of_diffusers(arguments, data) -> None:
    scheduler = DDIMScheduler(**arguments)
    constants = ddim_constants(scheduler)
    total = arguments["num_train_timesteps"]
    steps = data.draw(st.integers(1, total), label="steps")
    expected_timesteps = _diffusers_timesteps(scheduler, steps)
    index = data.draw(st.integers(0, steps - 1), label="index")
    timestep = expected_timesteps[index]
    assume(timestep < total)

    assume(_runs_through(constants, steps))
    step = schedule(constants, steps, cache_interval=3)[index]
    coefficients = step.coefficients
    assert (step.index, step.timestep, step.is_full) == (index, timestep, index % 3 == 0)

    generator = np.random.default_rng(timestep)
    x, m = generator.standard_normal((2, 64))
    x0 = coefficients.p * x + coefficients.q * m
    if coefficients.clip is not None:
        x0 = np.clip(x0, -coefficients.clip, coefficients.clip)
    e = coefficients.r * x + coefficients.s * m
    ours = coefficients.a * x0 + coefficients.b * e
    theirs = scheduler.step(
        torch.tensor(m), timestep, torch.tensor(x), return_dict=False, use_clipped_model_output=False
    )[0].numpy()
    # diffusers keeps the noise schedule's roots in float32: one rounding of 6e-8 for each of a few factors.
    tolerance = 1e-6 * (1 + abs(coefficients.p) + abs(coefficients.r))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=tolerance)


def _runs_through(constants: dict, steps: int) -> bool:
    lowest = min(constants["alphas_cumprod"])
    return constants["prediction_type"] != "epsilon" or lowest > 0


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("steps", [1, 2, 7, 20, 50, 100, 500, 999])
def test_a_whole_loop_ends_where_diffusers_ends(spacing: str, prediction: str, steps: int) -> None:
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=False,
        timestep_spacing=spacing,
        prediction_type=prediction,
    )
    scheduler.set_timesteps(steps)
    generator = np.random.default_rng(steps)
    ours = generator.standard_normal(32)
    theirs = torch.tensor(ours)
    for step in schedule(ddim_constants(scheduler), steps, 1):
        u, w = fused(step.coefficients)
        ours = u * ours + w * np.tanh(ours + step.timestep)
        prediction_there = torch.tanh(theirs + step.timestep)
        theirs = scheduler.step(prediction_there, int(step.timestep), theirs, return_dict=False)[0]
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-3, atol=1e-3)


def test_known_values_of_stable_diffusion() -> None:
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1, clip_sample=False
    )
    steps = schedule(ddim_constants(scheduler), 50, 5)
    assert [step.timestep for step in steps[:3]] == [981, 961, 941]
    assert steps[-1].timestep == 1
    assert sum(step.is_full for step in steps) == 10
    assert [step.index for step in steps if step.is_full] == list(range(0, 50, 5))


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_steps_out_of_range_are_refused(steps: int) -> None:
    constants = ddim_constants(DDIMScheduler())
    with pytest.raises(UsageError, match=f"--steps: {steps} steps cannot be taken; .* takes 1 to 1000"):
        schedule(constants, steps, 1)


def test_cache_interval_below_one_is_refused() -> None:
    with pytest.raises(UsageError, match="--cache-interval: 0 is not a cache interval"):
        schedule(ddim_constants(DDIMScheduler()), 10, 0)


def test_predicting_noise_where_no_signal_is_left_is_refused() -> None:
    scheduler = DDIMScheduler(rescale_betas_zero_snr=True, timestep_spacing="trailing")
    with pytest.raises(UsageError, match="timestep 999: no signal is left there"):
        schedule(ddim_constants(scheduler), 10, 1)
    leading = DDIMScheduler(rescale_betas_zero_snr=True, timestep_spacing="leading")
    assert len(schedule(ddim_constants(leading), 10, 1)) == 10


def test_as_many_steps_as_training_had_do_not_fall_off_the_table() -> None:
    """diffusers' step ends with an IndexError here: steps_offset makes the first timestep 1000."""
    constants = ddim_constants(DDIMScheduler(steps_offset=1, clip_sample=False))
    steps = schedule(constants, 1000, 1)
    assert (steps[0].timestep, steps[-1].timestep) == (1000, 1)
    u, w = fused(steps[0].coefficients)
    # From the last entry of the table to the last entry: nothing moves.
    assert (u, w) == (pytest.approx(1), pytest.approx(0, abs=1e-9))


def test_the_sampler_needs_neither_torch_nor_the_compiler() -> None:
    code = (
        "import sys, ddimcache.runtime.sampler, ddimcache.runtime.tokenizer; "
        "print([name for name in sys.modules if name.split('.')[0] in ('torch', 'transformers', 'diffusers') "
        "or name.startswith('ddimcache.compiler')])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
