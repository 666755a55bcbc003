"""Child processes without PyTorch, which TVM imports where it can, and which takes longer than their work."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

_FOLDER = Path(__file__).parents[1] / "fakes" / "no_torch"


def without_torch(environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` for a child whose ``import torch`` finds none."""
    paths = [str(_FOLDER), environment.get("PYTHONPATH")]
    return {**environment, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
