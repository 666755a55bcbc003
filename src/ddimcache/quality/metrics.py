"""Distances between pictures: peak signal-to-noise ratio, structural similarity, and the Fréchet distance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_PEAK = 255.0
# Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment: from error visibility to structural
# similarity", IEEE Transactions on Image Processing 13(4), 2004: a Gaussian window of 11 and K1, K2.
_WINDOW, _DEVIATION = 11, 1.5
_C1, _C2 = (0.01 * _PEAK) ** 2, (0.03 * _PEAK) ** 2


def psnr(pictures: NDArray[np.uint8], others: NDArray[np.uint8]) -> float | None:
    """Return 10 log10(255² / mean squared error) in dB over all pictures together; None where all are equal.

    The pictures are uint8 (N, H, W, 3). One mean over all of them, so that a picture that is equal bit for
    bit does not make the figure infinite.
    """
    error = float(np.mean(np.square(pictures.astype(np.float64) - others)))
    return None if error == 0 else float(10 * np.log10(_PEAK**2 / error))


def ssim(pictures: NDArray[np.uint8], others: NDArray[np.uint8]) -> float:
    """Return the mean structural similarity of the luma of uint8 (N, H, W, 3) pictures; 1 for equal ones."""
    return float(
        np.mean([_ssim(_luma(one), _luma(other)) for one, other in zip(pictures, others, strict=True)])
    )


def _luma(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    return picture.astype(np.float64) @ np.array([0.299, 0.587, 0.114])


def _ssim(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    mean_one, mean_other = _smooth(one), _smooth(other)
    variance_one = _smooth(one * one) - mean_one**2
    variance_other = _smooth(other * other) - mean_other**2
    covariance = _smooth(one * other) - mean_one * mean_other
    likeness = (2 * mean_one * mean_other + _C1) * (2 * covariance + _C2)
    return float(
        np.mean(likeness / ((mean_one**2 + mean_other**2 + _C1) * (variance_one + variance_other + _C2)))
    )


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weigh every window of 11 x 11 that lies wholly in the picture."""
    offsets = np.arange(_WINDOW) - _WINDOW // 2
    weights = np.exp(-(offsets**2) / (2 * _DEVIATION**2))
    weights /= weights.sum()
    for axis in (0, 1):
        values = np.lib.stride_tricks.sliding_window_view(values, _WINDOW, axis) @ weights
    return values


@dataclass(frozen=True)
class Moments:
    """The normal distribution that features (N, D) are taken for: their mean (D) and covariance (D, D)."""

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]

    @classmethod
    def of(cls, features: NDArray[np.float64]) -> Moments:
        """Return those of features (N, D); raises ValueError for fewer than two vectors."""
        if len(features) < 2:
            raise ValueError("a covariance needs two vectors or more")
        return cls(features.mean(0), np.atleast_2d(np.cov(features, rowvar=False)))

    def distance(self, other: Moments) -> float:
        """Return the Fréchet distance |m₁ − m₂|² + tr(C₁ + C₂ − 2 (C₁ C₂)^½).

        Heusel et al. (NeurIPS 2017) have it so for Inception's features.
        """
        shift = self.mean - other.mean
        # The eigenvalues of C₁ C₂ are those of the symmetric R C₂ R with R = C₁^½; rounding makes some
        # negative.
        values, vectors = np.linalg.eigh(self.covariance)
        root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
        shared = np.sqrt(np.clip(np.linalg.eigvalsh(root @ other.covariance @ root), 0, None)).sum()
        traces = np.trace(self.covariance) + np.trace(other.covariance)
        return float(max(0.0, shift @ shift + traces - 2 * shared))


def frechet_distance(features: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """Return the Fréchet distance of two sets of features (N, D), each taken as one normal distribution.

    Raises ValueError for fewer than two vectors.
    """
    return Moments.of(features).distance(Moments.of(others))
