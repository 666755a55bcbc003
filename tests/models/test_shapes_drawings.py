"""The drawings of the embedded model, their captions, and the reader that judges pictures by them."""

from dataclasses import replace

import numpy as np
import pytest

from ddimcache.models.shapes.drawing import drawings, drawings_with_cells
from ddimcache.models.shapes.grammar import (
    ATTRIBUTE_VALUES,
    WORDS,
    SceneSampler,
    pair_scenes,
    parse,
    single_scenes,
)
from ddimcache.models.shapes.judge import read_scores
from ddimcache.models.shapes.reader import components, judge, read

pytestmark = pytest.mark.host

COUNT = 150


@pytest.fixture(scope="module")
def drawn():
    return drawings(COUNT, seed=7)


def test_same_seed_gives_same_drawings(drawn):
    pictures, scenes = drawings(20, seed=7)
    again, scenes_again = drawings(20, seed=7)
    other, _ = drawings(20, seed=8)
    assert scenes == scenes_again
    np.testing.assert_array_equal(pictures, again)
    assert (pictures != other).any()
    assert pictures.shape == (20, 128, 128, 3)
    assert pictures.dtype == np.uint8


def test_edges_are_anti_aliased(drawn):
    colours = [len(np.unique(picture.reshape(-1, 3), axis=0)) for picture in drawn[0][:30]]
    assert np.mean(colours) > 6, "a drawing without soft edges has two or three colours"


def test_cells_hold_mean_colours_and_covers():
    pictures, cells, scenes = drawings_with_cells(10, seed=3)
    assert cells.shape == (10, 16, 16, 4)
    corner = pictures[0, :8, 8:16].reshape(-1, 3).mean(0) / 255
    np.testing.assert_allclose(cells[0, 0, 1, :3], corner, atol=1e-6)
    for picture_cells, scene in zip(cells, scenes, strict=True):
        covered = picture_cells[..., 3].sum() * 64  # pixels
        small = [thing.size == "small" for thing in scene.things] == [True]
        assert 550 < covered < (1100 if small else 4200)


def test_captions_use_the_grammars_words_and_parse_back():
    for scenes in (single_scenes(), pair_scenes()):
        for scene in scenes:
            assert set(scene.caption().split()) <= set(WORDS)
            assert parse(scene.caption()) == scene
            for name, value in scene.attributes().items():
                assert value in ATTRIBUTE_VALUES[name]


def test_layout_says_the_same_of_both_orders_of_words():
    left = parse("a red circle left of a blue square on a white background").layout()
    assert left == parse("a blue square right of a red circle on a white background").layout()
    assert left["near colour"] == "red"
    assert parse("a red circle below a blue square on a white background").layout()["far colour"] == "red"


@pytest.mark.parametrize("caption", ["", "a red dog", "a red circle on a white background"])
def test_other_sentences_are_refused_with_an_example(caption):
    with pytest.raises(ValueError, match="example"):
        parse(caption)


def test_held_out_captions_are_never_drawn_for_training():
    random = np.random.default_rng(0)
    trained, held_out = SceneSampler(), SceneSampler(held_out=True)
    assert not any(trained.sample(random).held_out for _ in range(500))
    assert all(held_out.sample(random).held_out for _ in range(500))
    share = np.mean([scene.held_out for scene in pair_scenes()])
    assert 0.1 < share < 0.25


def test_reader_is_right_about_drawings(drawn):
    scores = read_scores(*drawn)
    assert scores.all_right >= 0.97, scores


def test_reader_rejects_wrong_captions(drawn):
    """Each drawing is judged by captions that differ from its own in one word or relation."""
    wrongly_accepted, asked = 0, 0
    for picture, scene in zip(*drawn, strict=True):
        reading = read(picture)
        first = scene.things[0]
        taken = {thing.colour for thing in scene.things}
        free = next(colour for colour in ("red", "green", "blue") if colour not in taken)
        shape = "square" if first.shape != "square" else "triangle"
        others = [
            replace(scene, background="black" if scene.background != "black" else "white"),
            replace(scene, things=(replace(first, colour=free), *scene.things[1:])),
            replace(scene, things=(replace(first, shape=shape), *scene.things[1:])),
        ]
        if scene.relation:
            opposite = {"left of": "right of", "right of": "above", "above": "below", "below": "left of"}
            others.append(replace(scene, relation=opposite[scene.relation]))
            others.append(replace(scene, things=(first,), relation=""))
        else:
            others.append(
                replace(scene, things=(replace(first, size="small" if first.size == "large" else "large"),))
            )
        for other in others:
            wrongly_accepted += all(judge(reading, other).values())
            asked += 1
    assert wrongly_accepted <= 0.03 * asked


def test_reader_survives_what_a_decoder_does_to_a_drawing(drawn):
    random = np.random.default_rng(0)
    pictures = drawn[0].astype(np.float32)
    blurred = sum(np.roll(pictures, (y, x), (1, 2)) for y in (-1, 0, 1) for x in (-1, 0, 1)) / 9
    noisy = np.clip(blurred + random.normal(0, 6, blurred.shape), 0, 255).astype(np.uint8)
    assert read_scores(noisy, drawn[1]).all_right >= 0.97


def test_components_are_told_apart():
    mask = np.zeros((8, 8), bool)
    mask[1:3, 1:7] = True
    mask[3:6, 1] = True  # joined to the first
    mask[5:7, 4:7] = True
    parts = components(mask)
    assert sorted(int(part.sum()) for part in parts) == [6, 15]
    assert (np.logical_or.reduce(parts) == mask).all()
    assert components(np.zeros((4, 4), bool)) == []
