"""A disk that fills up while a model is compiled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ddimcache.compiler.bundle import write_weights
from ddimcache.errors import BundleError
from tests.kit.full_disk import files_up_to

pytestmark = pytest.mark.host


def test_weights_that_find_no_room(tmp_path: Path) -> None:
    """They are the largest part of a bundle by far, and written before it is put together."""
    weights = {"w": np.zeros(10_000, np.float32)}
    problem = rf"{tmp_path.parent}: unet.safetensors cannot be written: .*too large.*; free some space"
    with files_up_to(20_000), pytest.raises(BundleError, match=problem):
        write_weights(weights, tmp_path / "unet.safetensors")
    write_weights(weights, tmp_path / "unet.safetensors")
