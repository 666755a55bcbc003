"""Takes from a pipeline's scheduler what the loop on the device needs, as plain numbers.

The reference is ``StableDiffusionPipeline(scheduler=DDIMScheduler.from_config(config))``: whatever sampler
the folder names, its noise schedule is run by DDIM, and the corrections that the pipeline's constructor makes
to outdated configurations (``steps_offset`` is 1, ``clip_sample`` is false) are made here too. The other
samplers are ``EulerDiscreteScheduler``, ``LCMScheduler`` and ``DPMSolverMultistepScheduler`` (with
``algorithm_type`` "dpmsolver++", of second order by midpoints) of the same configuration.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_lcm import LCMScheduler

if TYPE_CHECKING:
    from ddimcache.compiler.frontend.pipeline_folder import PipelineFolder

# What a sampler by noise levels has to be set to: other noise levels than the model's or Karras'.
_SIGMAS_ONLY: dict[str, Any] = {
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "use_lu_lambdas": False,
    "use_flow_sigmas": False,
    "interpolation_type": "linear",
    "timestep_type": "discrete",
    "sigma_min": None,
    "sigma_max": None,
    "lambda_min_clipped": -math.inf,
}
_BETAS = ("trained_betas", "beta_schedule", "beta_start", "beta_end", "prediction_type")


def sampler_constants(folder: PipelineFolder) -> dict[str, Any]:
    """Return what ``ddimcache.runtime.sampler`` needs, ready for JSON.

    Returns
    -------
    ``num_train_timesteps``, ``alphas_cumprod`` (one float a training step, each exactly the float32 that
    diffusers computes), ``final_alpha_cumprod``, ``prediction_type``, ``timestep_spacing``, ``steps_offset``,
    ``clip_sample``, ``clip_sample_range``, ``init_noise_sigma``, ``vae_scaling_factor``,
    ``vae_shift_factor`` (an image's latents are ``latents / vae_scaling_factor + vae_shift_factor``), and
    :func:`other_samplers`.
    """
    constants = ddim_constants(DDIMScheduler.from_config(folder.scheduler_config))
    constants["steps_offset"] = 1
    constants["clip_sample"] = False
    constants["vae_scaling_factor"] = float(folder.vae_config["scaling_factor"])
    constants["vae_shift_factor"] = 0.0
    return constants | other_samplers({**folder.scheduler_values, "steps_offset": 1})


def other_samplers(values: Mapping[str, Any]) -> dict[str, dict[str, Any] | None]:
    """Return the settings of ``euler``, ``dpmpp_2m`` and ``lcm``, None where a variant is not supported.

    ``values`` is a scheduler's configuration; what it leaves out is the default of each sampler's scheduler.
    """
    euler = _with_defaults(EulerDiscreteScheduler, values)
    solver = _with_defaults(DPMSolverMultistepScheduler, values)
    lcm = _with_defaults(LCMScheduler, values)
    found: dict[str, dict[str, Any] | None] = {"euler": _sigma_sampler(euler), "dpmpp_2m": None, "lcm": None}
    if (settings := _sigma_sampler(solver)) is not None:
        # There diffusers cuts the timesteps of Karras' noise levels off, and the last bit of a logarithm
        # decides which they are.
        settings["allows_karras"] = solver["beta_schedule"] != "squaredcos_cap_v2"
        settings["lower_order_final"] = bool(solver["lower_order_final"])
        settings["euler_at_final"] = bool(solver["euler_at_final"])
        found["dpmpp_2m"] = settings
    # Its own defaults of the noise schedule are others than DDIM's, and the bundle has one schedule.
    ddim = _with_defaults(DDIMScheduler, values)
    steps, scaling = lcm["original_inference_steps"], lcm["timestep_scaling"]
    if (
        all(lcm[key] == ddim[key] for key in _BETAS)
        and type(steps) is int
        and 1 <= steps <= lcm["num_train_timesteps"]
        and type(scaling) in (int, float)
        and 0 < scaling < math.inf
    ):
        found["lcm"] = {"original_steps": steps, "timestep_scaling": float(scaling)}
    return found


def _with_defaults(scheduler: type, values: Mapping[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(scheduler).parameters.values()
    return {parameter.name: values.get(parameter.name, parameter.default) for parameter in parameters}


def _sigma_sampler(config: Mapping[str, Any]) -> dict[str, Any] | None:
    for key, supported in _SIGMAS_ONLY.items():
        if key in config and (config[key] or None) != (supported or None):
            return None
    # The key is also DDPM's, whose other variances the solver passes over.
    if config.get("variance_type") in ("learned", "learned_range"):
        return None
    if config["final_sigmas_type"] not in ("zero", "sigma_min"):
        return None
    return {
        "timestep_spacing": config["timestep_spacing"],
        "steps_offset": config["steps_offset"],
        "karras": bool(config["use_karras_sigmas"]),
        "ends_at_zero": config["final_sigmas_type"] == "zero",
    }


def ddim_constants(scheduler: DDIMScheduler) -> dict[str, Any]:
    """Return the constants of the scheduler itself, without the pipeline's corrections and the VAE's part."""
    config: Mapping[str, Any] = scheduler.config
    return {
        "num_train_timesteps": int(config["num_train_timesteps"]),
        "alphas_cumprod": scheduler.alphas_cumprod.tolist(),
        "final_alpha_cumprod": float(scheduler.final_alpha_cumprod),
        "prediction_type": config["prediction_type"],
        "timestep_spacing": config["timestep_spacing"],
        "steps_offset": int(config["steps_offset"]),
        "clip_sample": bool(config["clip_sample"]),
        "clip_sample_range": float(config["clip_sample_range"]),
        "init_noise_sigma": float(scheduler.init_noise_sigma),
    }
