"""Rows of an int8 table in numpy."""

from __future__ import annotations

import numpy as np


def lookup(table: np.ndarray, scale: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """``table`` [N, C] int8 times ``scale`` [N] at ``rows`` [R], clipped to the table, [R, C] float64."""
    taken = rows.clip(0, len(table) - 1)
    return table[taken].astype(np.float64) * scale[taken, None].astype(np.float64)
