"""From token ids to picture files, on a session that may be here or behind RPC."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ddimcache.errors import UsageError
from ddimcache.manifest import Manifest, TensorSpec
from ddimcache.runtime.progress import Progress

_SECONDS_BETWEEN_REPORTS = 0.5


class ImageSession(Protocol):
    """What a :class:`~ddimcache.runtime.session.Session` and its remote counterpart have in common."""

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of itself."""

    @property
    def peak_bytes(self) -> int:
        """The most memory that was in use at once."""

    def encode(self, ids: Sequence[int], *, negative: bool = False) -> None:
        """Encode the token ids of a prompt."""

    def start(self, noise: int | bytes, steps: int, cache_interval: int, guidance: float) -> int:
        """Begin an image; return the number of steps."""

    def run(self, count: int) -> int:
        """Run up to ``count`` more steps; return how many are done."""

    def latents(self) -> bytes:
        """Return the present latents."""

    def decode(self) -> bytes:
        """Return the picture's pixels."""

    def timings(self) -> dict[str, Any]:
        """Return the times of the image."""

    def close(self) -> None:
        """Give everything back."""


@dataclass(frozen=True)
class ImageRequest:
    """One image: token ids [L] of both prompts, a seed or initial latents, and the sampler's numbers."""

    ids: Sequence[int]
    negative_ids: Sequence[int]
    noise: int | bytes
    steps: int
    cache_interval: int
    guidance: float


@dataclass(frozen=True)
class Picture:
    """Pixels [B, H, W, 3] uint8 and final latents [B, 4, h, w] float32."""

    pixels: NDArray[np.uint8]
    latents: NDArray[np.float32]


def run_image(session: ImageSession, request: ImageRequest, progress: Progress) -> Picture:
    """Make one image; an interrupt ends it between two steps.

    Raises what the session's methods raise.
    """
    guided = request.guidance > 1
    with progress.stage("text", 1 + guided) as stage:
        session.encode(request.ids)
        stage.advance()
        if guided:
            session.encode(request.negative_ids, negative=True)
            stage.advance()
    total = session.start(request.noise, request.steps, request.cache_interval, request.guidance)
    done = 0
    with progress.stage("denoise", total) as stage:
        while done < total:
            now_done = session.run(_chunk(session.timings(), total))
            stage.advance(now_done - done)
            done = now_done
    with progress.stage("decode", 1) as stage:
        pixels = session.decode()
        stage.advance()
    manifest = session.manifest
    return Picture(
        np.frombuffer(pixels, dtype=np.uint8).reshape(manifest.image.shape),
        np.frombuffer(session.latents(), dtype="<f4").reshape(manifest.latents.shape),
    )


def _chunk(timings: Mapping[str, Any], total: int) -> int:
    """How many steps to run before the reader hears again: one at first, then about half a second of them."""
    # The dearer kind of step, by its median: the first one of each may have compiled kernels.
    seconds_a_step = timings["seconds_full_step"]
    if seconds_a_step is None:
        return 1
    return max(1, min(total, math.floor(_SECONDS_BETWEEN_REPORTS / max(seconds_a_step, 1e-9))))


def encode_png(pixels: NDArray[np.uint8], facts: Mapping[str, str]) -> bytes:
    """Return the PNG of one picture [H, W, 3] with ``facts`` as text chunks; the same bytes every time."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    information = PngInfo()
    for key, value in facts.items():
        information.add_itxt(key, value)
    stream = io.BytesIO()
    Image.fromarray(pixels, "RGB").save(stream, "PNG", pnginfo=information)
    return stream.getvalue()


def read_latents(path: Path, option: str) -> NDArray[np.float32]:
    """Read initial latents from an ``.npy`` file.

    Raises :class:`UsageError` naming the option: not readable, no plain array, another dtype than float32, or
    numbers that are not finite.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}", where=option) from error
    except (ValueError, EOFError) as error:
        raise UsageError(f"{path} is no .npy file of numbers", where=option) from error
    if not isinstance(array, np.ndarray) or array.dtype != np.float32:
        found = array.dtype.name if isinstance(array, np.ndarray) else "an archive"
        raise UsageError(f"{path} holds {found}, expected float32", where=option)
    if not np.isfinite(array).all():
        raise UsageError(f"{path} holds numbers that are not finite", where=option)
    return array


def latents_bytes(array: NDArray[np.float32], option: str, spec: TensorSpec) -> bytes:
    """Return latents as a session takes them; raises :class:`UsageError` for another shape than ``spec``."""
    if array.shape != spec.shape:
        found, wanted = ("×".join(map(str, shape)) for shape in (array.shape, spec.shape))
        raise UsageError(
            f"has shape {found or 'of one number'}, this model and size take {wanted}", where=option
        )
    return array.astype("<f4").tobytes()


def encode_npy(array: NDArray[Any]) -> bytes:
    """Return the bytes of an ``.npy`` file."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()
