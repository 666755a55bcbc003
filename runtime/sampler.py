"""The samplers as plain numbers.

They are computed in C++ (``runtime/cc/session/schedule.cc``), where the loop uses them; this is how Python
sees them. The device runs, with m the (guided) output of the UNet and x the latents of one step::

    x0 = p·x + q·m                     the picture predicted, clamped where DDIM's clip_sample is set
    e  = r·x + s·m                     the noise predicted
    x' = a·x0 + b·e + c·h + d·z        the latents of the next step

h is the x0 of the step before, and z new noise. ``constants`` is what
``ddimcache.compiler.frontend.scheduler.sampler_constants`` wrote into the bundle's manifest; timesteps and
noise levels are those of diffusers' schedulers.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ddimcache.manifest import NO_CLIP
from ddimcache.runtime.native import answer_of, native

SAMPLERS = ("ddim", "euler", "euler-karras", "dpm++2m", "dpm++2m-karras", "lcm")
_ROW = struct.Struct("=13d")


@dataclass(frozen=True)
class StepCoefficients:
    """The coefficients of one step; see the module's text for what they multiply."""

    p: float
    q: float
    r: float
    s: float
    a: float
    b: float
    c: float
    d: float
    clip: float | None
    """Bound of the predicted picture, or None where it is not clamped."""


@dataclass(frozen=True)
class Step:
    """One step of the loop."""

    index: int
    timestep: float
    coefficients: StepCoefficients
    is_full: bool
    """Whether the whole UNet runs and the cached feature is renewed, or only what lies outside the cut."""
    kept_picture: float
    kept_noise: float
    """What a mask keeps of a picture: so much of it and so much of the first noise behind the step."""


@dataclass(frozen=True)
class Plan:
    """The steps of an image. The latents begin as ``noise`` times noise of unit variance.

    Where the image begins with a picture, ``picture`` times its latents are added.

    Where ``adds_noise``, each step but the last adds new noise: the seed's numbers behind those that the
    latents began with.
    """

    steps: list[Step]
    noise: float
    picture: float
    adds_noise: bool


def schedule(
    constants: Mapping[str, Any], steps: int, cache_interval: int, sampler: str = "ddim"
) -> list[Step]:
    """Return the steps of :func:`plan`."""
    return plan(constants, steps, cache_interval, sampler).steps


def steps_taken(steps: int, strength: float) -> int:
    """Return how many steps an image takes that begins with a picture: the last ones, a share of them."""
    return int(steps * strength)


def plan(
    constants: Mapping[str, Any],
    steps: int,
    cache_interval: int,
    sampler: str = "ddim",
    strength: float | None = None,
    *,
    masked: bool = False,
) -> Plan:
    """Return the whole loop: every ``cache_interval``-th step, from the first, runs the whole UNet.

    Parameters
    ----------
    constants : the sampler constants of the bundle.
    steps : 1 … ``num_train_timesteps``.
    cache_interval : 1 (no cache) or more; n of DDIMCache's tables.
    sampler : one of ``SAMPLERS``.
    strength : of an image that begins with a picture, above 0 to 1: the share of the steps that is taken.
    masked : only a part of that picture is drawn anew; at a strength of 1 this begins as noise alone.

    Raises
    ------
    UsageError : a number is out of range, the sampler is unknown or the bundle does not have it, it has no
        use for a cache, or the network's prediction says nothing about the picture at one of the timesteps
        (no signal left, and the noise is predicted), so a coefficient would not be finite.
    """
    text = json.dumps(dict(constants)).encode()
    found, rows = answer_of(native("schedule")(text, sampler, steps, cache_interval, strength or 0.0, masked))
    made = [
        Step(
            index,
            timestep,
            StepCoefficients(p, q, r, s, a, b, c, d, None if clip == NO_CLIP else clip),
            bool(is_full),
            *kept,
        )
        for index, (timestep, is_full, p, q, r, s, clip, a, b, c, d, *kept) in enumerate(
            _ROW.iter_unpack(rows)
        )
    ]
    return Plan(made, found["noise"], found["picture"], found["adds_noise"])
