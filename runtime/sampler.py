"""The deterministic DDIM sampler (Song et al., ICLR 2021, formula 12 with η = 0) as plain numbers.

They are computed in C++ (``runtime/cc/session/schedule.cc``), where the loop uses them; this is how Python
sees them. The device runs, with m the (guided) output of the UNet and x the latents of one step::

    x0 = p·x + q·m           the picture predicted, clamped to ±clip_sample_range where clip_sample is set
    e  = r·x + s·m           the noise predicted
    x' = a·x0 + b·e          the latents of the next step

``constants`` is what ``ddimcache.compiler.frontend.scheduler.sampler_constants`` wrote into the bundle's
manifest; timesteps are those of diffusers' ``DDIMScheduler``.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ddimcache.manifest import NO_CLIP
from ddimcache.runtime.native import answer_of, native

_ROW = struct.Struct("=9d")


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


@dataclass(frozen=True)
class Step:
    """One step of the loop."""

    index: int
    timestep: int
    coefficients: StepCoefficients
    is_full: bool
    """Whether the whole UNet runs and the cached feature is renewed, or only what lies outside the cut."""


def schedule(constants: Mapping[str, Any], steps: int, cache_interval: int) -> list[Step]:
    """Return the whole loop: every ``cache_interval``-th step, from the first, runs the whole UNet.

    Parameters
    ----------
    constants : the sampler constants of the bundle.
    steps : 1 … ``num_train_timesteps``.
    cache_interval : 1 (no cache) or more; n of DDIMCache's tables.

    Raises
    ------
    UsageError : a number is out of range, or the network's prediction says nothing about the picture at one
        of the timesteps (no signal left, and the noise is predicted), so a coefficient would not be finite.
    """
    text = json.dumps(dict(constants)).encode()
    _, rows = answer_of(native("schedule")(text, steps, cache_interval))
    return [
        Step(
            index,
            int(timestep),
            StepCoefficients(p, q, r, s, a, b, None if clip == NO_CLIP else clip),
            bool(is_full),
        )
        for index, (timestep, is_full, p, q, r, s, clip, a, b) in enumerate(_ROW.iter_unpack(rows))
    ]
