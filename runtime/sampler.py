"""The deterministic DDIM sampler (Song et al., ICLR 2021, formula 12 with η = 0) as plain numbers.

The device runs, with m the (guided) output of the UNet and x the latents of one step::

    x0 = p·x + q·m           the picture predicted, clamped to ±clip_sample_range where clip_sample is set
    e  = r·x + s·m           the noise predicted
    x' = a·x0 + b·e          the latents of the next step

and everything that depends on the noise schedule is in the six coefficients. ``constants`` is what
``ddimcache.compiler.frontend.scheduler.sampler_constants`` wrote into the bundle's manifest; timesteps are
those of diffusers' ``DDIMScheduler``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ddimcache.errors import UsageError


@dataclass(frozen=True)
class StepCoefficients:
    """The coefficients of one step; see the module's text for what they multiply."""

    p: float
    q: float
    r: float
    s: float
    a: float
    b: float
    clip: float | None
    """Bound of the predicted picture, or None where it is not clamped."""

    def fused(self) -> tuple[float, float]:
        """Return (u, w) with x' = u·x + w·m, for a step that does not clamp.

        Raises
        ------
        ValueError : the step clamps, so it is not linear.
        """
        if self.clip is not None:
            raise ValueError("a step that clamps cannot be fused into two coefficients")
        return self.a * self.p + self.b * self.r, self.a * self.q + self.b * self.s


@dataclass(frozen=True)
class Step:
    """One step of the loop."""

    index: int
    timestep: int
    coefficients: StepCoefficients
    is_full: bool
    """Whether the whole UNet runs and the cached feature is renewed, or only what lies outside the cut."""


def timesteps(constants: Mapping[str, Any], steps: int) -> npt.NDArray[np.int64]:
    """Return the timesteps, most noise first, as ``DDIMScheduler.set_timesteps`` does.

    Parameters
    ----------
    constants : the sampler constants of the bundle.
    steps : 1 … ``num_train_timesteps``.

    Returns
    -------
    int64 array of length ``steps``.

    Raises
    ------
    UsageError : ``steps`` is out of range.
    """
    total = _check_steps(constants, steps)
    spacing = constants["timestep_spacing"]
    if spacing == "linspace":
        return np.linspace(0, total - 1, steps).round()[::-1].astype(np.int64)
    if spacing == "leading":
        return np.arange(steps)[::-1].astype(np.int64) * (total // steps) + constants["steps_offset"]
    if spacing == "trailing":
        # Rounding can make numpy's arange one longer than asked for; the surplus value would be −1.
        return np.round(np.arange(total, 0, -total / steps)).astype(np.int64)[:steps] - 1
    raise UsageError(f"timestep spacing {spacing!r} is unknown", where="sampler constants")


def step_coefficients(constants: Mapping[str, Any], timestep: int, steps: int) -> StepCoefficients:
    """Return the coefficients that lead from ``timestep`` to the next of ``steps`` steps.

    The next timestep is ``timestep − num_train_timesteps // steps`` for every spacing, as in
    ``DDIMScheduler.step``, and below 0 the final signal share stands in.

    A timestep beyond the table is given the table's last entry: ``steps_offset`` 1 with as many steps as
    training had asks for it once, where diffusers ends with an IndexError.

    Raises
    ------
    UsageError : ``steps`` is out of range, or the network's prediction says nothing about the picture at this
        timestep (no signal left, and the noise is predicted), so that a coefficient would not be finite.
    """
    total = _check_steps(constants, steps)
    table = constants["alphas_cumprod"]
    previous = timestep - total // steps
    signal = float(table[min(timestep, total - 1)])
    signal_next = float(
        table[min(previous, total - 1)] if previous >= 0 else constants["final_alpha_cumprod"]
    )
    sqrt_signal, sqrt_noise = math.sqrt(signal), math.sqrt(1.0 - signal)
    prediction = constants["prediction_type"]
    if prediction == "v_prediction":
        p, q, r, s = sqrt_signal, -sqrt_noise, sqrt_noise, sqrt_signal
    elif prediction == "epsilon":
        divisor = _nonzero(sqrt_signal, timestep, "no signal is left there, and the model predicts the noise")
        p, q, r, s = 1.0 / divisor, -sqrt_noise / divisor, 0.0, 1.0
    elif prediction == "sample":
        divisor = _nonzero(sqrt_noise, timestep, "no noise is left there, and the model predicts the picture")
        p, q, r, s = 0.0, 1.0, 1.0 / divisor, -sqrt_signal / divisor
    else:
        raise UsageError(f"prediction type {prediction!r} is unknown", where="sampler constants")
    clip = float(constants["clip_sample_range"]) if constants["clip_sample"] else None
    return StepCoefficients(p, q, r, s, math.sqrt(signal_next), math.sqrt(1.0 - signal_next), clip)


def schedule(constants: Mapping[str, Any], steps: int, cache_interval: int) -> list[Step]:
    """Return the whole loop: every ``cache_interval``-th step, from the first, runs the whole UNet.

    Parameters
    ----------
    constants : the sampler constants of the bundle.
    steps : 1 … ``num_train_timesteps``.
    cache_interval : 1 (no cache) or more; n of DDIMCache's tables.

    Raises
    ------
    UsageError : a number is out of range, or as :func:`step_coefficients`.
    """
    if cache_interval < 1:
        raise UsageError(
            f"{cache_interval} is not a cache interval", where="--cache-interval", remedy="use 1 or more"
        )
    return [
        Step(
            index,
            int(timestep),
            step_coefficients(constants, int(timestep), steps),
            index % cache_interval == 0,
        )
        for index, timestep in enumerate(timesteps(constants, steps))
    ]


def _check_steps(constants: Mapping[str, Any], steps: int) -> int:
    total: int = constants["num_train_timesteps"]
    if not 1 <= steps <= total:
        raise UsageError(
            f"{steps} steps cannot be taken", where="--steps", remedy=f"this model takes 1 to {total}"
        )
    return total


def _nonzero(value: float, timestep: int, reason: str) -> float:
    if value == 0.0:
        raise UsageError(
            f"the sampler cannot start from timestep {timestep}: {reason}",
            where="--steps",
            remedy="choose a number of steps that leaves this timestep out",
        )
    return value
