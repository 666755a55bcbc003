"""Distances between pictures, held against other ways to compute them."""

import numpy as np
import pytest
from scipy import linalg, ndimage

from ddimcache.quality.metrics import frechet_distance, psnr, ssim

pytestmark = pytest.mark.host


@pytest.fixture
def pictures():
    random = np.random.default_rng(3)
    smooth = ndimage.gaussian_filter(random.uniform(0, 255, (4, 40, 32, 3)), (0, 3, 3, 0))
    pictures = np.rint(255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)
    noisy = np.clip(pictures + random.normal(0, 9, pictures.shape), 0, 255).astype(np.uint8)
    return pictures, noisy


def test_psnr():
    black = np.zeros((2, 4, 4, 3), np.uint8)
    assert psnr(black, black) is None
    assert psnr(black, black + 255) == 0
    assert psnr(black, black + 1) == pytest.approx(48.1308, abs=1e-4)  # 20 log10(255)


def test_psnr_of_several_is_of_their_common_error(pictures):
    one, other = pictures[0].copy(), pictures[0].copy()
    other[0] ^= 1
    assert psnr(one, other) == pytest.approx(20 * np.log10(255) + 10 * np.log10(4))


def test_ssim_equals_its_definition_pixel_by_pixel(pictures):
    one, other = (picture[0].astype(float) @ [0.299, 0.587, 0.114] for picture in pictures)
    axis = np.exp(-(np.arange(-5, 6) ** 2) / 4.5)
    window = np.outer(axis, axis) / np.outer(axis, axis).sum()
    values = []
    for y in range(one.shape[0] - 10):
        for x in range(one.shape[1] - 10):
            a, b = one[y : y + 11, x : x + 11], other[y : y + 11, x : x + 11]
            m, n = (window * a).sum(), (window * b).sum()
            v, w = (window * (a - m) ** 2).sum(), (window * (b - n) ** 2).sum()
            shared = (window * (a - m) * (b - n)).sum()
            values.append(
                (2 * m * n + 6.5025) * (2 * shared + 58.5225) / ((m**2 + n**2 + 6.5025) * (v + w + 58.5225))
            )
    assert ssim(pictures[0][:1], pictures[1][:1]) == pytest.approx(np.mean(values), rel=1e-9)
    assert ssim(pictures[0], pictures[0]) == pytest.approx(1)


def test_frechet_distance_equals_the_matrix_root():
    random = np.random.default_rng(1)
    one = random.normal(size=(50, 6)) @ random.normal(size=(6, 6)) + 1
    other = random.normal(size=(80, 6)) @ random.normal(size=(6, 6))
    covariances = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
    root = linalg.sqrtm(covariances[0] @ covariances[1]).real
    shift = one.mean(0) - other.mean(0)
    expected = shift @ shift + np.trace(sum(covariances) - 2 * root)
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(other, one) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-6)


def test_frechet_distance_of_fewer_pictures_than_features():
    random = np.random.default_rng(2)
    one, other = random.normal(size=(5, 20)), random.normal(size=(7, 20)) + 3
    assert 100 < frechet_distance(one, other) < 400
    with pytest.raises(ValueError, match="two vectors"):
        frechet_distance(one[:1], other)
