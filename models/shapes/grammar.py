"""Scenes of one or two coloured shapes, and the caption grammar that names them.

One shape:  ``a small red circle on a white background``
Two shapes: ``a red circle left of a blue square on a black background``
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

SHAPES = ("circle", "square", "triangle")
COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 165, 70),
    "blue": (40, 80, 215),
    "yellow": (245, 205, 45),
    "purple": (165, 50, 185),
}
BACKGROUNDS = {"white": (245, 245, 245), "gray": (150, 150, 150), "black": (25, 25, 25)}
SIZES = ("small", "large")
RELATIONS = ("left of", "right of", "above", "below")

WORDS = (
    "a",
    "on",
    "of",
    "background",
    *SIZES,
    *COLOURS,
    *SHAPES,
    *BACKGROUNDS,
    "left",
    "right",
    "above",
    "below",
)

# One caption in this many is kept out of training, to ask for combinations never drawn for the model.
HELD_OUT_ONE_IN = 6
SINGLE_SHARE = 0.5


@dataclass(frozen=True)
class Thing:
    """One shape of one colour; ``size`` is empty in a scene of two things, which share a middle size."""

    shape: str
    colour: str
    size: str = ""

    def phrase(self) -> str:
        """Return the noun phrase, as in ``a small red circle``."""
        return " ".join(word for word in ("a", self.size, self.colour, self.shape) if word)


@dataclass(frozen=True)
class Scene:
    """What a caption says: one thing, or two things and the relation of the first to the second."""

    things: tuple[Thing, ...]
    background: str
    relation: str = ""

    def caption(self) -> str:
        """Return the sentence of the grammar that describes this scene."""
        subject = self.things[0].phrase()
        if len(self.things) == 2:
            subject += f" {self.relation} {self.things[1].phrase()}"
        return f"{subject} on a {self.background} background"

    @property
    def held_out(self) -> bool:
        """Whether this combination is kept out of training (decided by a checksum of its caption)."""
        return zlib.crc32(self.caption().encode()) % HELD_OUT_ONE_IN == 0

    def attributes(self) -> dict[str, str]:
        """Return what can be right or wrong in a picture, by name; absent attributes are empty strings."""
        first, second = self.things[0], self.things[1] if len(self.things) == 2 else Thing("", "")
        return {
            "background": self.background,
            "colour": first.colour,
            "shape": first.shape,
            "size": first.size,
            "relation": self.relation,
            "second colour": second.colour,
            "second shape": second.shape,
        }

    def layout(self) -> dict[str, str]:
        """Return where things of a scene of two lie: along which axis, and what is first (left or above)."""
        if len(self.things) == 1:
            return dict.fromkeys(("axis", "near colour", "near shape", "far colour", "far shape"), "")
        near, far = self.things if self.relation in ("left of", "above") else reversed(self.things)
        return {
            "axis": "across" if self.relation in ("left of", "right of") else "down",
            "near colour": near.colour,
            "near shape": near.shape,
            "far colour": far.colour,
            "far shape": far.shape,
        }


# The values of each attribute of `Scene.attributes`; the empty string stands for its absence.
ATTRIBUTE_VALUES: dict[str, tuple[str, ...]] = {
    "background": ("", *BACKGROUNDS),
    "colour": ("", *COLOURS),
    "shape": ("", *SHAPES),
    "size": ("", *SIZES),
    "relation": ("", *RELATIONS),
    "second colour": ("", *COLOURS),
    "second shape": ("", *SHAPES),
}
LAYOUT_VALUES: dict[str, tuple[str, ...]] = {
    "axis": ("", "across", "down"),
    "near colour": ("", *COLOURS),
    "near shape": ("", *SHAPES),
    "far colour": ("", *COLOURS),
    "far shape": ("", *SHAPES),
}


def single_scenes() -> Iterator[Scene]:
    """Yield every scene of one thing, in a fixed order."""
    for size, colour, shape, background in product(SIZES, COLOURS, SHAPES, BACKGROUNDS):
        yield Scene((Thing(shape, colour, size),), background)


def pair_scenes() -> Iterator[Scene]:
    """Yield every scene of two things of different colours, in a fixed order."""
    for one, two, shape, other, relation, background in product(
        COLOURS, COLOURS, SHAPES, SHAPES, RELATIONS, BACKGROUNDS
    ):
        if one != two:
            yield Scene((Thing(shape, one), Thing(other, two)), background, relation)


def parse(caption: str) -> Scene:
    """Return the scene a caption of the grammar describes; raise ValueError for any other sentence."""
    scene = _BY_CAPTION.get(" ".join(caption.lower().split()))
    if scene is None:
        raise ValueError(
            f"not a caption of the grammar: {caption!r}; example: {next(single_scenes()).caption()!r}"
        )
    return scene


class SceneSampler:
    """Draws scenes at random, either from the training combinations or from the held-out ones."""

    def __init__(self, held_out: bool = False):
        self._singles = [scene for scene in single_scenes() if scene.held_out == held_out]
        self._pairs = [scene for scene in pair_scenes() if scene.held_out == held_out]

    def sample(self, random: np.random.Generator) -> Scene:
        """Return one scene: of one thing with probability `SINGLE_SHARE`, else of two."""
        pool = self._singles if random.random() < SINGLE_SHARE else self._pairs
        return pool[int(random.integers(len(pool)))]


def scenes_to_ask(count: int, seed: int, held_out: bool) -> list[Scene]:
    """Return scenes drawn at random from the training combinations, or from those held out."""
    random, sampler = np.random.default_rng(seed), SceneSampler(held_out)
    return [sampler.sample(random) for _ in range(count)]


_BY_CAPTION = {scene.caption(): scene for scenes in (single_scenes(), pair_scenes()) for scene in scenes}
