"""Who judges pictures: the classifier and the reader, and the exam that both sit first."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ddimcache.errors import DdimcacheError
from ddimcache.models.shapes.classifier import WEIGHTS, Classifier, classify, labels, load_classifier
from ddimcache.models.shapes.drawing import drawings
from ddimcache.models.shapes.grammar import Scene, Thing
from ddimcache.models.shapes.judge import LEAST_RIGHT, Judge, real_drawings, scores_of
from ddimcache.models.shapes.run_folder import RunFolder
from ddimcache.models.shapes.train_classifier import train
from ddimcache.quality.metrics import frechet_distance

pytestmark = pytest.mark.host

ONE = Scene((Thing("circle", "red", "small"),), "white")
TWO = Scene((Thing("circle", "red"), Thing("square", "blue")), "black", "right of")


@pytest.fixture(scope="module")
def judge():
    return Judge()


def test_both_pass_the_exam(judge):
    assert min(judge.exam.values()) >= LEAST_RIGHT
    assert WEIGHTS.stat().st_size < 1_000_000


def test_labels_name_what_can_be_seen():
    assert labels(ONE) == {
        "background": "white",
        "size": "small",
        "axis": "",
        "near colour": "red",
        "near shape": "circle",
        "far colour": "",
        "far shape": "",
    }
    assert (labels(TWO)["axis"], labels(TWO)["near colour"], labels(TWO)["far shape"]) == (
        "across",
        "blue",
        "circle",
    )


def test_who_was_not_trained_may_not_judge(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "classifier.safetensors"
    save_file(Classifier().state_dict(), path)
    with pytest.raises(DdimcacheError, match=r"the classifier of drawings: gets .*% of 400 real drawings"):
        Judge(path)


def test_a_file_that_holds_something_else_is_named(tmp_path):
    path = tmp_path / "classifier.safetensors"
    save_file({"body.0.weight": torch.zeros(2)}, path)
    with pytest.raises(DdimcacheError, match=r"classifier\.safetensors: is no classifier of drawings"):
        load_classifier(path)
    path.write_bytes(b"{}")
    with pytest.raises(DdimcacheError, match=r"classifier\.safetensors: is no classifier of drawings"):
        load_classifier(path)


def test_wrong_captions_cost_what_is_wrong_in_them(judge):
    """A drawing of one thing is held against a caption with another colour: one answer of five is wrong."""
    pictures = real_drawings([ONE], 3, seed=1)
    asked = [Scene((Thing("circle", "green", "small"),), "white")] * 3
    told = judge.classify(pictures, asked)
    assert (told.accuracy, told.all_right) == (pytest.approx(0.75), 0)  # background, size, colour, shape
    read = judge.read(pictures, asked)
    assert read.by_attribute["background"] == read.by_attribute["count"] == 1
    assert read.by_attribute["colour"] == 0
    assert read.all_right == 0
    assert read.accuracy_two is None


def test_things_exchanged_are_seen(judge):
    pictures = real_drawings([TWO], 2, seed=1)
    exchanged = Scene((Thing("square", "blue"), Thing("circle", "red")), "black", "right of")
    assert judge.read(pictures, [TWO] * 2).all_right == judge.classify(pictures, [TWO] * 2).all_right == 1
    assert judge.read(pictures, [exchanged] * 2).by_attribute["relation"] == 0
    assert judge.classify(pictures, [exchanged] * 2).all_right == 0


def test_scores_count_attributes_and_pictures():
    verdicts = [{"colour": True, "shape": False}, {"colour": True, "shape": True, "relation": True}]
    scores = scores_of(verdicts, [ONE, TWO])
    assert scores.accuracy == pytest.approx(0.8)
    assert (scores.all_right, scores.all_right_one, scores.all_right_two) == (0.5, 0, 1)
    assert (scores.accuracy_one, scores.accuracy_two) == (0.5, 1)
    assert scores.by_attribute == {"colour": 1, "shape": 0.5, "relation": 1}


def test_the_distance_tells_damaged_drawings_from_real_ones(judge):
    pictures, scenes = drawings(128, seed=5, held_out=True)
    real = judge.features(real_drawings(scenes, 4, seed=6))
    near = frechet_distance(judge.features(pictures), real)
    random = np.random.default_rng(0)
    noisy = np.clip(pictures + random.normal(0, 40, pictures.shape), 0, 255).astype(np.uint8)
    repainted = pictures.copy()
    repainted[:, 40:80, 40:80] = 128
    for damaged in (noisy, repainted):
        assert frechet_distance(judge.features(damaged), real) > 3 * near


def test_training_goes_on_where_it_stopped(tmp_path):
    folder = RunFolder(tmp_path / "run")
    train(folder, minutes=1e-6, seed=1)
    state = folder.load("classifier")
    assert state is not None
    assert state["step"] == 1
    train(folder, minutes=1e-6, seed=1)
    assert folder.load("classifier")["step"] == 1
    lines = [json.loads(line) for line in (folder.path / "log.jsonl").read_text().splitlines()]
    assert [line.get("step") for line in lines] == [0, 1, 1]
    state["spent"] = 0
    folder.save("classifier", state)
    classifier = train(folder, minutes=1e-6, seed=1)
    assert folder.load("classifier")["step"] == 2
    assert len(classify(classifier, drawings(3, seed=1)[0])) == 3
