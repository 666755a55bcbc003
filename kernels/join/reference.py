"""Joining along the channels in numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def join_channels(parts: Sequence[np.ndarray]) -> np.ndarray:
    """``parts`` [..., C], equal but for C, along their last axis."""
    return np.concatenate(parts, axis=-1)
