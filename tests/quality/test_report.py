"""Figures of sets of pictures, with drawings in place of a model's pictures."""

import numpy as np
import pytest

from ddimcache.models.shapes.grammar import scenes_to_ask
from ddimcache.models.shapes.judge import real_drawings
from ddimcache.quality.pictures import Commission, PictureSet, Setting
from ddimcache.quality.report import Measured, table_row
from ddimcache.runtime.refresh import every

pytestmark = pytest.mark.host

COUNT = 64


def setting(weights, interval):
    return Setting(weights, 0, 10, interval, "uniform", every(10, interval))


@pytest.fixture(scope="module")
def measured():
    scenes = scenes_to_ask(COUNT, seed=1, held_out=True)
    commission = Commission(tuple(scene.caption() for scene in scenes), 0, 2.0)
    good = real_drawings(scenes, 1, seed=9)
    shuffled = np.roll(good, 1, axis=0)  # real drawings of what others asked for
    noisy = np.clip(good.astype(int) + np.random.default_rng(0).normal(0, 40, good.shape), 0, 255)
    sets = [
        PictureSet(setting("fp32", 1), good, (), 2.0),
        PictureSet(setting("int8", 1), shuffled, (), 1.5),
        PictureSet(setting("int8", 5), noisy.astype(np.uint8), (), 0.5),
    ]
    measured = Measured(sets, commission, real_pictures=256)
    return measured, [measured.row(each) for each in sets]


def test_drawings_of_what_was_asked_are_right(measured):
    measured, (good, shuffled, noisy) = measured
    assert good["accuracy"] == good["classifier_accuracy"] == good["all_right"] == 1
    assert shuffled["accuracy"] < 0.7
    assert shuffled["all_right"] < 0.3
    # The distance does not know captions, but it knows drawings.
    assert shuffled["frechet_distance"] == pytest.approx(good["frechet_distance"])
    assert good["frechet_distance"] < 3 * measured.about()["frechet_distance_of_real"]
    assert noisy["frechet_distance"] > 3 * good["frechet_distance"]


def test_each_is_held_against_its_own(measured):
    _, (good, shuffled, noisy) = measured
    assert good["psnr_to_uncompressed"] is None
    assert good["ssim_to_uncompressed"] == pytest.approx(1)
    assert noisy["psnr_to_uncompressed"] > noisy["psnr_to_uncached"]
    assert (good["speedup"], shuffled["speedup"], noisy["speedup"]) == (1, 1, 3)
    assert noisy["efficiency"] == pytest.approx(0.6)
    assert table_row(setting("fp32", 1), good)[4] == "∞"


def test_other_prompts_are_compared_but_not_judged():
    pictures = np.zeros((2, 128, 128, 3), np.uint8)
    lone = PictureSet(setting("int8", 5), pictures, (), 1.0)
    measured = Measured([lone], Commission(("a red fox", "a boat"), 0, 7.5))
    row = measured.row(lone)
    assert measured.about() == {"judge": None, "frechet_distance_of_real": None}
    values = ("accuracy", "psnr_to_uncompressed", "ssim_to_uncached", "speedup", "efficiency")
    assert [row[name] for name in values] == [None] * 5
    assert table_row(lone.setting, row)[1:4] == ["–"] * 3
