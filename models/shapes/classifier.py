"""A small convolutional network that names what a picture shows, and whose last features compare pictures.

It is trained on the generator's drawings (:mod:`ddimcache.models.shapes.train_classifier`). Its features are
what the Fréchet distance of `ddimcache quality` is taken over; its answers stand beside those of the rules in
:mod:`ddimcache.models.shapes.reader`. Whether either may judge is for :mod:`ddimcache.models.shapes.judge`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ddimcache.errors import DdimcacheError
from ddimcache.models.shapes.grammar import BACKGROUNDS, COLOURS, SHAPES, SIZES, Scene

WEIGHTS = Path(__file__).parent / "classifier.safetensors"
FEATURES = 48
# What is told of every picture. The near thing is the only one, the left one or the upper one, so that each
# answer can be seen in the picture; which of two things a caption names first cannot.
LABEL_VALUES: dict[str, tuple[str, ...]] = {
    "background": tuple(BACKGROUNDS),
    "axis": ("", "across", "down"),
    "size": ("", *SIZES),
    "near colour": tuple(COLOURS),
    "near shape": SHAPES,
    "far colour": ("", *COLOURS),
    "far shape": ("", *SHAPES),
}
_WIDTHS = (16, 32, 48, 64)
_BATCH = 64


def labels(scene: Scene) -> dict[str, str]:
    """Return what the classifier should say of a drawing of a scene; the empty string means "none"."""
    one, layout = scene.things[0], scene.layout()
    if len(scene.things) == 1:
        layout = {**layout, "near colour": one.colour, "near shape": one.shape}
    return {"background": scene.background, "size": one.size, **layout}


class Classifier(nn.Module):
    """Four halvings of a 128 x 128 picture, one hidden layer of `FEATURES` numbers, and a head a label."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 3
        for wider in _WIDTHS:
            layers += [nn.Conv2d(width, wider, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(wider)]
            layers += [nn.SiLU(), nn.Conv2d(wider, wider, 3, padding=1, groups=wider, bias=False)]
            layers += [nn.BatchNorm2d(wider), nn.SiLU()]
            width = wider
        # Where things lie is kept: the relation of two is not in an average over the picture.
        layers += [nn.Conv2d(width, 24, 1), nn.SiLU(), nn.Flatten(), nn.Linear(24 * 8 * 8, FEATURES)]
        self.body = nn.Sequential(*layers)
        self.heads = nn.Linear(FEATURES, sum(len(values) for values in LABEL_VALUES.values()))

    def features(self, pictures: Tensor) -> Tensor:
        """Return float32 (B, 48) for uint8 (B, 128, 128, 3) RGB pictures."""
        return self.body(pictures.permute(0, 3, 1, 2).float() / 127.5 - 1)

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """Return a (B, values) tensor of logits for each of `LABEL_VALUES`."""
        logits = self.heads(nn.functional.silu(self.features(pictures)))
        return list(logits.split([len(values) for values in LABEL_VALUES.values()], dim=1))


def load_classifier(path: Path = WEIGHTS) -> Classifier:
    """Load the shipped classifier, or that of a file of the same shapes, in float32, ready for use.

    Raises :class:`DdimcacheError` where the file is absent or holds something else.
    """
    classifier = Classifier()
    try:
        # Kept in half precision; the shapes of what it is loaded into are checked here.
        classifier.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        remedy = "train it: python -m ddimcache.models.shapes.train_classifier"
        raise DdimcacheError(f"is no classifier of drawings: {reason}", where=path, remedy=remedy) from error
    return classifier.eval()


@torch.inference_mode()
def features_of(classifier: Classifier, pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return float64 (N, 48) features of uint8 (N, 128, 128, 3) pictures."""
    parts = [
        classifier.features(torch.from_numpy(pictures[start : start + _BATCH]))
        for start in range(0, len(pictures), _BATCH)
    ]
    return torch.cat(parts).double().numpy()


@torch.inference_mode()
def classify(classifier: Classifier, pictures: NDArray[np.uint8]) -> list[dict[str, str]]:
    """Return what each of uint8 (N, 128, 128, 3) pictures shows, by the names of `LABEL_VALUES`."""
    found: list[dict[str, str]] = []
    for start in range(0, len(pictures), _BATCH):
        logits = classifier(torch.from_numpy(pictures[start : start + _BATCH]))
        answers = torch.stack([part.argmax(1) for part in logits], 1).tolist()
        found += [
            {name: values[index] for (name, values), index in zip(LABEL_VALUES.items(), row, strict=True)}
            for row in answers
        ]
    return found


def right_answers(found: dict[str, str], scene: Scene) -> dict[str, bool]:
    """Say for each attribute of a scene whether the classifier found it; what is absent is not counted."""
    return {name: found[name] == value for name, value in labels(scene).items() if value or found[name]}
