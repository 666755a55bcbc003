"""Pictures of real models, measured by networks whose weights the user has: CLIP and Inception V3."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ddimcache.errors import UsageError
from ddimcache.quality.metrics import Moments
from ddimcache.quality.pictures import Commission, PictureSet
from ddimcache.runtime.progress import Progress

if TYPE_CHECKING:
    from ddimcache.quality.clip import ClipScorer
    from ddimcache.quality.inception import InceptionFeatures

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_LARGEST_STATISTICS = 256 << 20


class RealModels:
    """What of these the user named; figures that nothing was named for are None.

    Parameters
    ----------
    clip : folder of a ``CLIPModel``.
    inception : file or folder with Inception V3's weights; ``real`` is what the distance is taken to, a
        folder of pictures or an ``.npz`` with ``mu`` and ``sigma``. Both or neither.
    progress : told of the real pictures, which are read here.

    Raises :class:`UsageError` and :class:`FrontendError` for what is missing, contradictory or no such thing.
    """

    def __init__(
        self, clip: Path | None, inception: Path | None, real: Path | None, progress: Progress
    ) -> None:
        if inception is not None and real is None:
            raise UsageError(
                "a distance is taken to real pictures",
                where="--inception",
                remedy="name a folder of them, or their statistics in .npz, with --real",
            )
        if real is not None and inception is None:
            raise UsageError(
                "real pictures are compared by features",
                where="--real",
                remedy="name Inception V3's weights with --inception",
            )
        self._clip: ClipScorer | None = None
        self._inception: InceptionFeatures | None = None
        self._real: Moments | None = None
        self.about: dict[str, Any] = {"clip": None, "inception": None}
        """What was used, for the JSON object."""
        if clip is not None:
            from ddimcache.quality.clip import ClipScorer

            self._clip = ClipScorer(clip)
            self.about["clip"] = str(clip.absolute())
        if inception is not None and real is not None:
            from ddimcache.quality.inception import InceptionFeatures

            self._inception = InceptionFeatures(inception)
            self._real = _real_moments(real, self._inception, progress)
            self.about["inception"] = {
                "weights": str(inception.absolute()),
                "is_fid": self._inception.is_fid,
                "real": str(real.absolute()),
            }

    def row(self, pictures: PictureSet, commission: Commission) -> dict[str, Any]:
        """Return the figures of one set."""
        score = fid = None
        if self._clip is not None:
            score = self._clip.score(pictures.pixels, commission.prompts)
        if self._inception is not None and self._real is not None:
            fid = Moments.of(self._inception.of(pictures.pixels)).distance(self._real)
        return {"clip_score": score, "inception_fid": fid}

    def statistics(self) -> bytes | None:
        """Return an ``.npz`` of the real pictures' ``mu`` and ``sigma``, None where there are none."""
        if self._real is None:
            return None
        content = io.BytesIO()
        np.savez(content, mu=self._real.mean, sigma=self._real.covariance)
        return content.getvalue()


def _real_moments(path: Path, inception: InceptionFeatures, progress: Progress) -> Moments:
    if not path.is_dir():
        return read_statistics(path)
    files = sorted(each for each in path.rglob("*") if each.suffix.lower() in PICTURE_SUFFIXES)
    if len(files) < 2:
        raise UsageError(
            f"{path} holds {len(files)} pictures, and two are needed at least",
            where="--real",
            remedy=f"name a folder with pictures that end in {', '.join(PICTURE_SUFFIXES)}",
        )

    def pictures() -> Iterator[NDArray[np.uint8]]:
        with progress.stage("real pictures", len(files)) as stage:
            for file in files:
                yield _read_pixels(file)
                stage.advance()

    return Moments.of(inception.of(pictures()))


def _read_pixels(path: Path) -> NDArray[np.uint8]:
    from PIL import Image

    try:
        with Image.open(path) as opened:
            return np.asarray(opened.convert("RGB"))
    # A torn or hostile picture ends in errors of many kinds, and in one for its number of pixels.
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise UsageError(
            f"{path} is no picture that can be read: {error}", where="--real", remedy="remove it"
        ) from error


def read_statistics(path: Path) -> Moments:
    """Read ``mu`` [2048] and ``sigma`` [2048, 2048] of an ``.npz``, as FID's tools write them.

    Raises :class:`UsageError` for a file that is missing, torn, too large, or holds something else.
    """
    from ddimcache.quality.inception import FEATURES

    def wrong(what: str) -> UsageError:
        remedy = "name a folder of pictures, or an .npz with mu and sigma of Inception's 2048 features"
        return UsageError(f"{path} {what}", where="--real", remedy=remedy)

    try:
        # An archive of a few bytes can claim any size; its directory says so before anything is unpacked.
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _LARGEST_STATISTICS:
                raise wrong("is larger than any such statistics")
        with np.load(path, allow_pickle=False) as found:
            if not {"mu", "sigma"} <= set(found.files):
                raise wrong(f"holds {', '.join(found.files) or 'nothing'}, not mu and sigma")
            mean, covariance = found["mu"], found["sigma"]
    except OSError as error:
        raise wrong(f"cannot be read: {error.strerror or error}") from error
    except (ValueError, EOFError, zipfile.BadZipFile, zipfile.LargeZipFile) as error:
        raise wrong(f"is no archive of numbers: {error}") from error
    if mean.shape != (FEATURES,) or covariance.shape != (FEATURES, FEATURES):
        raise wrong(f"has mu of {list(mean.shape)} and sigma of {list(covariance.shape)}")
    for each in (mean, covariance):
        if each.dtype.kind != "f" or not np.isfinite(each).all():
            raise wrong("holds numbers that are not finite floats")
    return Moments(mean.astype(np.float64), covariance.astype(np.float64))
