"""Anti-aliased drawings of scenes, from signed distances to the shapes' outlines."""

from __future__ import annotations

import math

import numpy as np

from ddimcache.models.shapes.grammar import BACKGROUNDS, COLOURS, Scene, SceneSampler

PICTURE_SIZE = 128  # pixels on each side
CELL = 8  # pixels on each side of the square that one latent stands for

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


def draw(scene: Scene, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return a uint8 (128, 128, 3) RGB drawing of a scene, and float32 (128, 128) how much things cover.

    Places and sizes vary with ``random``.
    """
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
    covered = np.zeros((PICTURE_SIZE, PICTURE_SIZE), np.float32)
    for thing, (x, y) in zip(scene.things, centres, strict=True):
        place = (x + random.uniform(-jitter, jitter), y + random.uniform(-jitter, jitter))
        radius = random.uniform(*RADIUS[thing.size])
        coverage = np.clip(0.5 - signed_distance(thing.shape, place, radius), 0, 1)
        canvas += coverage[..., None] * (np.asarray(COLOURS[thing.colour], np.float32) - canvas)
        covered = np.maximum(covered, coverage)
    return np.rint(canvas).astype(np.uint8), covered


def cell_means(values: np.ndarray) -> np.ndarray:
    """Average (128, 128, ...) values over the cells of 8 x 8 pixels that one latent stands for."""
    cells = PICTURE_SIZE // CELL
    return values.reshape(cells, CELL, cells, CELL, *values.shape[2:]).mean((1, 3))


def drawings_with_cells(
    count: int, seed: int, held_out: bool = False
) -> tuple[np.ndarray, np.ndarray, list[Scene]]:
    """Return ``count`` drawings, uint8 (count, 128, 128, 3), what their cells hold, and their scenes.

    A cell holds its mean colour and the part of it that things cover: float32 (count, 16, 16, 4), each from
    0 to 1.  The same seed gives the same drawings.
    """
    random = np.random.default_rng(seed)
    sampler = SceneSampler(held_out)
    scenes = [sampler.sample(random) for _ in range(count)]
    pictures = np.empty((count, PICTURE_SIZE, PICTURE_SIZE, 3), np.uint8)
    cells = np.empty((count, PICTURE_SIZE // CELL, PICTURE_SIZE // CELL, 4), np.float32)
    for index, scene in enumerate(scenes):
        picture, covered = draw(scene, random)
        pictures[index] = picture
        cells[index, ..., :3] = cell_means(picture.astype(np.float32)) / 255
        cells[index, ..., 3] = cell_means(covered)
    return pictures, cells, scenes


def drawings(count: int, seed: int, held_out: bool = False) -> tuple[np.ndarray, list[Scene]]:
    """Return the drawings and scenes of `drawings_with_cells`."""
    pictures, _, scenes = drawings_with_cells(count, seed, held_out)
    return pictures, scenes
