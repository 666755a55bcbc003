"""Reads a picture by rules: what lies on which background, and whether that is what a caption asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ddimcache.models.shapes.drawing import signed_distance
from ddimcache.models.shapes.grammar import BACKGROUNDS, COLOURS, SHAPES, Scene

# Pixels of one colour that stay after the mask's outermost ring is taken off, for a thing to count.
_LEAST_CORE = 60
# The lowest overlap (intersection over union) with a shape stretched to the same box that has its name.
_LEAST_OVERLAP = 0.75
# Between the largest small thing (about 1030 pixels) and the smallest large one (about 2590).
_LARGE_AREA = 1700
_LEAST_SEPARATION = 12.0  # pixels between centres along the relation's axis

_NAMES = (*BACKGROUNDS, *COLOURS)
_PALETTE = np.array([*BACKGROUNDS.values(), *COLOURS.values()], np.float32)


@dataclass(frozen=True)
class FoundThing:
    """One patch of colour; ``shape`` is empty where it is like none of the shapes."""

    colour: str
    shape: str
    area: int
    x: float
    y: float


@dataclass(frozen=True)
class Reading:
    """What was found in a picture; ``background`` is empty where the border is no background's colour."""

    background: str
    things: tuple[FoundThing, ...]


def _core(mask: np.ndarray) -> np.ndarray:
    """Return the pixels of a mask whose eight neighbours are in it too."""
    padded = np.pad(mask, 1)
    rows = padded[:-2] & padded[1:-1] & padded[2:]
    return rows[:, :-2] & rows[:, 1:-1] & rows[:, 2:]


def components(mask: np.ndarray) -> list[np.ndarray]:
    """Return the connected parts (over edges) of a boolean (H, W) mask, each as such a mask."""
    parents: list[int] = []
    runs: list[tuple[int, int, int]] = []  # row, first column, column after the last

    def root(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = parents[index]
        return index

    above: list[int] = []
    for row, line in enumerate(mask):
        edges = np.flatnonzero(np.diff(np.pad(line.astype(np.int8), 1)))
        here = []
        for first, last in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            index = len(runs)
            runs.append((row, first, last))
            parents.append(index)
            here.append(index)
            for other in above:
                if runs[other][1] < last and first < runs[other][2]:
                    parents[root(other)] = root(index)
        above = here
    parts: dict[int, np.ndarray] = {}
    for index, (row, first, last) in enumerate(runs):
        part = parts.setdefault(root(index), np.zeros_like(mask))
        part[row, first:last] = True
    return list(parts.values())


def _templates() -> dict[str, np.ndarray]:
    """Return each shape cut out at its bounding box, as a boolean mask of some 80 pixels a side."""
    templates = {}
    for shape in SHAPES:
        mask = signed_distance(shape, (64.0, 64.0), 40.0) < 0
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        templates[shape] = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return templates


_TEMPLATES = _templates()


def _shape(mask: np.ndarray) -> str:
    """Return the name of the shape that overlaps most with a thing's mask, or an empty string."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = box.shape
    if max(height, width) > 1.5 * min(height, width):
        return ""
    best, name = _LEAST_OVERLAP, ""
    for shape, template in _TEMPLATES.items():
        y = ((np.arange(height) + 0.5) * template.shape[0] / height).astype(int)
        x = ((np.arange(width) + 0.5) * template.shape[1] / width).astype(int)
        stretched = template[np.ix_(y, x)]
        overlap = (stretched & box).sum() / (stretched | box).sum()
        if overlap > best:
            best, name = overlap, shape
    return name


def read(picture: np.ndarray) -> Reading:
    """Read a uint8 (128, 128, 3) RGB picture."""
    distances = np.square(picture[:, :, None].astype(np.float32) - _PALETTE).sum(-1)
    nearest = distances.argmin(-1)
    border = np.concatenate([nearest[:3].ravel(), nearest[-3:].ravel(), nearest[:, :3].ravel()])
    border = np.concatenate([border, nearest[:, -3:].ravel()])
    commonest = _NAMES[int(np.bincount(border, minlength=len(_NAMES)).argmax())]
    things = []
    for index, colour in enumerate(_NAMES):
        mask = nearest == index
        if colour == commonest or mask.sum() < _LEAST_CORE:
            continue
        for part in components(mask):
            if _core(part).sum() < _LEAST_CORE:
                continue
            y, x = np.nonzero(part)
            things.append(FoundThing(colour, _shape(part), int(part.sum()), float(x.mean()), float(y.mean())))
    things.sort(key=lambda thing: -thing.area)
    return Reading(commonest if commonest in BACKGROUNDS else "", tuple(things))


def _related(first: FoundThing, second: FoundThing, relation: str) -> bool:
    across, down = second.x - first.x, second.y - first.y
    along, aside = (across, down) if relation in ("left of", "right of") else (down, across)
    if relation in ("right of", "below"):
        along = -along
    return along >= _LEAST_SEPARATION and along > abs(aside)


def judge(reading: Reading, scene: Scene) -> dict[str, bool]:
    """Say for each attribute that a caption asks for whether the picture shows it.

    These are background, count, colour and shape, and of one thing its size, of two things the relation and
    the second one's colour and shape: five or seven answers. A shape counts for the colour it was asked in,
    so right shapes in exchanged colours are wrong.
    """
    found = [
        next((thing for thing in reading.things if thing.colour == want.colour), None)
        for want in scene.things
    ]
    verdict = {
        "background": reading.background == scene.background,
        "count": len(reading.things) == len(scene.things),
    }
    for prefix, thing, want in zip(("", "second "), found, scene.things, strict=False):
        verdict[prefix + "colour"] = thing is not None
        verdict[prefix + "shape"] = thing is not None and thing.shape == want.shape
    first = found[0]
    if len(scene.things) == 2:
        second = found[1]
        verdict["relation"] = (
            first is not None and second is not None and _related(first, second, scene.relation)
        )
    else:
        large = scene.things[0].size == "large"
        verdict["size"] = first is not None and (first.area > _LARGE_AREA) == large
    return verdict
