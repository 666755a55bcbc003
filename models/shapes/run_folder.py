"""The folder of a training run: its log, its checkpoints and its sample pictures."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image


class RunFolder:
    """Keeps what a training run needs in order to go on after it was stopped at any moment."""

    def __init__(self, path: Path):
        self.path = path
        path.mkdir(parents=True, exist_ok=True)

    def log(self, **values: Any) -> None:
        """Append one JSON line to ``log.jsonl``."""
        with (self.path / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def save(self, name: str, state: dict[str, Any]) -> None:
        """Write a checkpoint so that a stop at any moment leaves either the old or the new one whole."""
        target = self.path / f"{name}.pt"
        partial = target.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, target)

    def load(self, name: str) -> dict[str, Any] | None:
        """Return a checkpoint, or None where there is none yet."""
        target = self.path / f"{name}.pt"
        return torch.load(target, map_location="cpu", weights_only=True) if target.exists() else None

    def save_grid(self, name: str, pictures: np.ndarray, columns: int) -> None:
        """Write uint8 (N, H, W, 3) pictures as one PNG with ``columns`` pictures in a row."""
        count, height, width, _ = pictures.shape
        rows = math.ceil(count / columns)
        grid = np.full((rows * (height + 2), columns * (width + 2), 3), 128, np.uint8)
        for index, picture in enumerate(pictures):
            y, x = (index // columns) * (height + 2), (index % columns) * (width + 2)
            grid[y : y + height, x : x + width] = picture
        Image.fromarray(grid).save(self.path / f"{name}.png")


class Budget:
    """A stage's training time in seconds, counted over all of its runs, and its learning rates."""

    def __init__(
        self,
        minutes: float,
        peak_rate: float,
        spent: float = 0.0,
        warm_up: float = 0.02,
        cool_down: float = 0.4,
    ):
        self.total = minutes * 60
        self.spent = spent
        self.peak_rate = peak_rate
        self.warm_up = warm_up
        self.cool_down = cool_down
        self._last = time.monotonic()

    def skip(self) -> None:
        """Leave the time since the last `tick` out of the account, such as that of compiling."""
        self._last = time.monotonic()

    def tick(self) -> float:
        """Count the time since the last call; return the share of the budget spent, 1 at its end."""
        now = time.monotonic()
        self.spent += now - self._last
        self._last = now
        return self.share

    @property
    def share(self) -> float:
        """The share of the budget spent, from 0 to 1."""
        return min(1.0, self.spent / self.total)

    def rate(self) -> float:
        """Return the learning rate now: a short rise, then level, in the end down to a hundredth."""
        rise = self.share / self.warm_up + 0.01
        fall = (1 - self.share) / self.cool_down + 0.01
        return self.peak_rate * min(1.0, rise, fall)
