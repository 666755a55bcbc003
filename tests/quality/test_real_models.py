"""FID to a folder of pictures or to their statistics, by Inception with random weights; what is refused."""

import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ddimcache.errors import UsageError
from ddimcache.quality.metrics import frechet_distance
from ddimcache.quality.pictures import Commission
from ddimcache.quality.real_models import RealModels, read_statistics
from ddimcache.runtime.progress import SilentProgress
from tests.kit.real_models import inception_state

pytestmark = pytest.mark.host

COMMISSION = Commission(("a", "b", "c"), 0, 2.0)


@pytest.fixture
def narrow(tmp_path, monkeypatch):
    """Inception's file, and its features cut to 16: the eigenvalues of 2048 take seconds."""
    monkeypatch.setattr("ddimcache.quality.inception.FEATURES", 16)
    monkeypatch.setattr(
        "ddimcache.quality.inception.InceptionFeatures.of",
        lambda self, pictures: np.stack([features(each) for each in pictures]),
    )
    file = tmp_path / "inception.pth"
    torch.save(inception_state(1008), file)
    return file


def features(picture):
    return np.asarray(Image.fromarray(picture).resize((4, 4)).convert("L"), np.float64).ravel()


def pictures_of(seed, count=3):
    return np.random.default_rng(seed).integers(0, 256, (count, 20, 30, 3), np.uint8)


def test_a_folder_of_pictures_and_its_statistics(narrow, tmp_path):
    real, drawn = pictures_of(1, 5), pictures_of(2)
    folder = tmp_path / "real"
    (folder / "more").mkdir(parents=True)
    for number, pixels in enumerate(real):
        Image.fromarray(pixels).save((folder if number < 3 else folder / "more") / f"{number}.PNG")
    (folder / "notes.txt").write_text("no picture")
    models = RealModels(None, narrow, folder, SilentProgress())
    row = models.row(SimpleNamespace(pixels=drawn), COMMISSION)
    expected = frechet_distance(*(np.stack([features(each) for each in some]) for some in (drawn, real)))
    assert row == {"clip_score": None, "inception_fid": pytest.approx(expected, rel=1e-6)}
    assert models.about["inception"]["is_fid"]

    statistics = tmp_path / "real.npz"
    statistics.write_bytes(models.statistics())
    again = RealModels(None, narrow, statistics, SilentProgress())
    assert again.row(SimpleNamespace(pixels=drawn), COMMISSION) == row


def test_nothing_named_is_nothing_measured():
    models = RealModels(None, None, None, SilentProgress())
    assert models.row(SimpleNamespace(pixels=pictures_of(0)), COMMISSION) == {
        "clip_score": None,
        "inception_fid": None,
    }
    assert models.statistics() is None


def test_one_without_the_other(tmp_path):
    with pytest.raises(UsageError, match="--inception: a distance is taken to real pictures; name a folder"):
        RealModels(None, tmp_path, None, SilentProgress())
    with pytest.raises(UsageError, match="--real: real pictures are compared by features; name Inception"):
        RealModels(None, None, tmp_path, SilentProgress())


def test_folders_that_hold_no_pictures(narrow, tmp_path):
    folder = tmp_path / "real"
    folder.mkdir()
    with pytest.raises(UsageError, match=r"--real: .* holds 0 pictures, and two are needed"):
        RealModels(None, narrow, folder, SilentProgress())
    Image.fromarray(pictures_of(0)[0]).save(folder / "a.png")
    whole = (folder / "a.png").read_bytes()
    (folder / "b.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match=r"--real: .*b\.png is no picture that can be read"):
        RealModels(None, narrow, folder, SilentProgress())


def test_statistics_that_are_none(tmp_path, monkeypatch):
    path = tmp_path / "real.npz"

    def refused(message):
        with pytest.raises(UsageError, match=f"--real: .*{message}"):
            read_statistics(path)

    refused("cannot be read: No such file")
    path.write_bytes(b"PK\x03\x04 torn")
    refused("is no archive of numbers")
    np.savez(path, mean=np.zeros(3))
    refused("holds mean, not mu and sigma")
    np.savez(path, mu=np.zeros(3), sigma=np.zeros((3, 3)))
    refused(r"has mu of \[3\] and sigma of \[3, 3\]")
    np.savez(path, mu=np.full(2048, np.nan), sigma=np.zeros((2048, 2048)))
    refused("holds numbers that are not finite floats")
    np.savez(path, mu=np.array([print], object), sigma=np.zeros((2048, 2048)))
    refused("is no archive of numbers")  # a pickle inside
    monkeypatch.setattr("ddimcache.quality.real_models._LARGEST_STATISTICS", 1 << 20)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mu.npy", bytes(2 << 20))
    refused("is larger than any such statistics")
