"""Judges pictures of the embedded model: what they show, and how far they are from real drawings.

Attributes are told by the rules of :mod:`ddimcache.models.shapes.reader`, which may answer "none of these"
and so cannot be pleased by a smear; the classifier, which must choose, is asked beside it. Its
features are those of the Fréchet distance. Both sit an exam on real drawings first, and judge nothing if
they fail it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ddimcache.errors import DdimcacheError
from ddimcache.models.shapes.classifier import (
    WEIGHTS,
    Classifier,
    classify,
    features_of,
    load_classifier,
    right_answers,
)
from ddimcache.models.shapes.drawing import draw
from ddimcache.models.shapes.grammar import Scene, SceneSampler
from ddimcache.models.shapes.reader import judge, read

LEAST_RIGHT = 0.99
"""The share of real drawings that a judge must get wholly right."""

_EXAM_DRAWINGS = 400
_EXAM_SEED = 20_240

Verdicts = Sequence[dict[str, bool]]


@dataclass(frozen=True)
class Scores:
    """What a judge makes of pictures; shares from 0 to 1, None where no picture was of that kind.

    ``accuracy`` is the share of all attributes that are right, ``all_right`` the share of pictures in which
    all are; both again for captions of one thing and of two.
    """

    accuracy: float
    all_right: float
    accuracy_one: float | None
    all_right_one: float | None
    accuracy_two: float | None
    all_right_two: float | None
    by_attribute: dict[str, float]


def scores_of(verdicts: Verdicts, scenes: Sequence[Scene]) -> Scores:
    """Sum up verdicts, one a picture."""
    pairs = list(zip(verdicts, scenes, strict=True))
    parts = [[verdict for verdict, scene in pairs if len(scene.things) == count] for count in (1, 2)]
    answers: dict[str, list[bool]] = defaultdict(list)
    for verdict in verdicts:
        for name, right in verdict.items():
            answers[name].append(right)
    return Scores(
        _share(verdicts) or 0.0,
        _whole(verdicts) or 0.0,
        _share(parts[0]),
        _whole(parts[0]),
        _share(parts[1]),
        _whole(parts[1]),
        {name: float(np.mean(values)) for name, values in answers.items()},
    )


def _share(verdicts: Verdicts) -> float | None:
    answers = [right for verdict in verdicts for right in verdict.values()]
    return float(np.mean(answers)) if answers else None


def _whole(verdicts: Verdicts) -> float | None:
    return float(np.mean([all(verdict.values()) for verdict in verdicts])) if verdicts else None


def read_scores(pictures: NDArray[np.uint8], scenes: Sequence[Scene]) -> Scores:
    """Return the reader's scores of uint8 (N, 128, 128, 3) pictures of scenes."""
    verdicts = [judge(read(picture), scene) for picture, scene in zip(pictures, scenes, strict=True)]
    return scores_of(verdicts, scenes)


class Judge:
    """Reader and classifier, examined.

    Raises :class:`DdimcacheError` where either gets less than `LEAST_RIGHT` of real drawings right, or the
    classifier's file cannot be read.
    """

    def __init__(self, path: Path = WEIGHTS) -> None:
        self._classifier = load_classifier(path)
        self.exam = examine(self._classifier)

    def read(self, pictures: NDArray[np.uint8], scenes: Sequence[Scene]) -> Scores:
        """Return what the reader makes of uint8 (N, 128, 128, 3) pictures."""
        return read_scores(pictures, scenes)

    def classify(self, pictures: NDArray[np.uint8], scenes: Sequence[Scene]) -> Scores:
        """Return what the classifier makes of uint8 (N, 128, 128, 3) pictures."""
        return classified_scores(self._classifier, pictures, scenes)

    def features(self, pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return float64 (N, 48) features of uint8 (N, 128, 128, 3) pictures."""
        return features_of(self._classifier, pictures)


def classified_scores(classifier: Classifier, pictures: NDArray[np.uint8], scenes: Sequence[Scene]) -> Scores:
    """Return a classifier's scores of uint8 (N, 128, 128, 3) pictures of scenes."""
    told = classify(classifier, pictures)
    return scores_of([right_answers(*pair) for pair in zip(told, scenes, strict=True)], scenes)


def real_drawings(scenes: Sequence[Scene], each: int, seed: int) -> NDArray[np.uint8]:
    """Return ``each`` drawings of every scene, places and sizes varied: uint8 (N · each, 128, 128, 3)."""
    random = np.random.default_rng(seed)
    return np.stack([draw(scene, random)[0] for _ in range(each) for scene in scenes])


def examine(classifier: Classifier) -> dict[str, float]:
    """Return the share of real drawings that classifier and reader get wholly right.

    Half of the drawings are of combinations that the classifier was not trained on. Raises
    :class:`DdimcacheError` where either share is below `LEAST_RIGHT`.
    """
    random = np.random.default_rng(_EXAM_SEED)
    samplers = SceneSampler(held_out=False), SceneSampler(held_out=True)
    scenes = [samplers[index % 2].sample(random) for index in range(_EXAM_DRAWINGS)]
    pictures = real_drawings(scenes, 1, _EXAM_SEED)
    shares = {}
    for name, scores in (("classifier", partial(classified_scores, classifier)), ("reader", read_scores)):
        shares[name] = share = scores(pictures, scenes).all_right
        if share < LEAST_RIGHT:
            raise DdimcacheError(
                f"gets {share:.1%} of {_EXAM_DRAWINGS} real drawings wholly right and has to get "
                f"{LEAST_RIGHT:.0%} right to judge pictures",
                where=f"the {name} of drawings",
                remedy="train it on with python -m ddimcache.models.shapes.train_classifier",
            )
    return shares
