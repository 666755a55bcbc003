"""Takes from a pipeline's scheduler what the DDIM loop on the device needs, as plain numbers.

The reference is ``StableDiffusionPipeline(scheduler=DDIMScheduler.from_config(config))``: whatever sampler
the folder names, its noise schedule is run by DDIM, and the corrections that the pipeline's constructor makes
to outdated configurations (``steps_offset`` is 1, ``clip_sample`` is false) are made here too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from diffusers.schedulers.scheduling_ddim import DDIMScheduler

if TYPE_CHECKING:
    from ddimcache.compiler.frontend.pipeline_folder import PipelineFolder


def sampler_constants(folder: PipelineFolder) -> dict[str, Any]:
    """Return what ``ddimcache.runtime.sampler`` needs, ready for JSON.

    Returns
    -------
    ``num_train_timesteps``, ``alphas_cumprod`` (one float a training step, each exactly the float32 that
    diffusers computes), ``final_alpha_cumprod``, ``prediction_type``, ``timestep_spacing``, ``steps_offset``,
    ``clip_sample``, ``clip_sample_range``, ``init_noise_sigma``, ``vae_scaling_factor`` and
    ``vae_shift_factor`` (an image's latents are ``latents / vae_scaling_factor + vae_shift_factor``).
    """
    constants = ddim_constants(DDIMScheduler.from_config(folder.scheduler_config))
    constants["steps_offset"] = 1
    constants["clip_sample"] = False
    constants["vae_scaling_factor"] = float(folder.vae_config["scaling_factor"])
    constants["vae_shift_factor"] = 0.0
    return constants


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
