"""Anti-aliased drawings of scenes, from signed distances to the shapes' outlines."""

from __future__ import annotations

import math

import numpy as np

from ddimcache.models.shapes.grammar import BACKGROUNDS, COLOURS, Scene, SceneSampler

PICTURE_SIZE = 128  # pixels on each side

# Radii in pixels of the circle; the other shapes are scaled to look equally large.
RADIUS = {"small": (15.0, 18.0), "large": (31.0, 36.0), "": (20.0, 23.0)}
_SQUARE_HALF_SIDE = 0.89
_TRIANGLE_INRADIUS = 0.72
_SINGLE_JITTER = 6.0
_PAIR_JITTER = 4.0
_PAIR_OFFSET = (28.0, 31.0)
_TOWARDS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}

_GRID_Y, _GRID_X = np.mgrid[0:PICTURE_SIZE, 0:PICTURE_SIZE].astype(np.float32) + 0.5


def signed_distance(shape: str, centre: tuple[float, float], radius: float) -> np.ndarray:
    """Return float32 (128, 128) distances in pixels to a shape's outline, negative inside it."""
    x, y = _GRID_X - centre[0], _GRID_Y - centre[1]
    if shape == "circle":
        return np.hypot(x, y) - radius
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - radius * _SQUARE_HALF_SIDE
    if shape == "triangle":
        # An equilateral triangle that points up; its three edges have these outward normals.  It is
        # lowered a little so that its bounding box, not its centroid, lies about the centre.
        inradius = radius * _TRIANGLE_INRADIUS
        y = y - inradius / 2
        slope = math.sqrt(3) / 2
        return np.maximum(y, np.maximum(slope * x, -slope * x) - y / 2) - inradius
    raise ValueError(f"unknown shape: {shape!r}")


def draw(scene: Scene, random: np.random.Generator) -> np.ndarray:
    """Return a uint8 (128, 128, 3) RGB drawing of a scene; places and sizes vary with ``random``."""
    middle = PICTURE_SIZE / 2
    if len(scene.things) == 1:
        centres = [(middle, middle)]
        jitter = _SINGLE_JITTER
    else:
        toward_x, toward_y = _TOWARDS[scene.relation]
        offset = random.uniform(*_PAIR_OFFSET)
        centres = [
            (middle + toward_x * offset, middle + toward_y * offset),
            (middle - toward_x * offset, middle - toward_y * offset),
        ]
        jitter = _PAIR_JITTER
    canvas = np.empty((PICTURE_SIZE, PICTURE_SIZE, 3), np.float32)
    canvas[:] = BACKGROUNDS[scene.background]
    for thing, (x, y) in zip(scene.things, centres, strict=True):
        place = (x + random.uniform(-jitter, jitter), y + random.uniform(-jitter, jitter))
        radius = random.uniform(*RADIUS[thing.size])
        coverage = np.clip(0.5 - signed_distance(thing.shape, place, radius), 0, 1)[..., None]
        canvas += coverage * (np.asarray(COLOURS[thing.colour], np.float32) - canvas)
    return np.rint(canvas).astype(np.uint8)


def drawings(count: int, seed: int, held_out: bool = False) -> tuple[np.ndarray, list[Scene]]:
    """Return ``count`` drawings, uint8 (count, 128, 128, 3), and their scenes; the same for the same seed."""
    random = np.random.default_rng(seed)
    sampler = SceneSampler(held_out)
    scenes = [sampler.sample(random) for _ in range(count)]
    pictures = np.empty((count, PICTURE_SIZE, PICTURE_SIZE, 3), np.uint8)
    for index, scene in enumerate(scenes):
        pictures[index] = draw(scene, random)
    return pictures, scenes
