"""From token ids to picture files, on a session that may be here or behind RPC."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from ddimcache.errors import DdimcacheError, UsageError
from ddimcache.manifest import Manifest, TensorSpec
from ddimcache.records import Limits
from ddimcache.runtime.progress import Progress
from ddimcache.runtime.sampler import steps_taken

if TYPE_CHECKING:
    from PIL.Image import Image as PictureFile

_POLL_SECONDS = 0.2
_STAGES = ("text", "denoise", "decode")
_LEAST_WHITE = 128
"""Of a mask's pixels: 0.5, as diffusers has it."""
MemoryMode = Literal["auto", "resident", "pipelined", "load-on-use"]
MEMORY_MODES: tuple[MemoryMode, ...] = get_args(MemoryMode)


@dataclass(frozen=True)
class MemoryChoice:
    """How a session uses the device's memory.

    ``mode``: ``resident`` keeps every component from its first use on; ``pipelined`` keeps the UNet, and text
    encoder and decoder come and go while it loads or works; ``load-on-use`` has the component at work alone;
    ``auto`` is the fastest of them that fits. ``budget`` in bytes bounds what is on the device; None is the
    device's memory.
    """

    mode: MemoryMode = "auto"
    budget: Annotated[int, Limits(minimum=1)] | None = None


@dataclass(frozen=True)
class ImageRequest:
    """One image: token ids [L] of both prompts, a seed or initial latents, and the sampler's numbers.

    ``noise`` is a seed (0 … 2⁶³ − 1), or the initial latents as the bytes of float32 [B, 4, h, w],
    little-endian, unit variance. ``steps`` is 1 … 1000; the feature of U₂ is computed on one step and reused
    on the next ``cache_interval`` − 1 (1 is no cache). At a ``guidance`` of 1 or below the UNet runs once a
    step, without the negative prompt. ``full_steps``, where there are any, takes the place of
    ``cache_interval``: the steps that run the whole UNet, rising from 0. ``sampler`` is one of
    :data:`ddimcache.runtime.sampler.SAMPLERS`; ``lcm`` takes a seed and no cache.

    ``image``, where there is one, is a picture to begin with: the bytes of uint8 [H, W, 3] of the size that
    is drawn. It takes a seed, and only the last ``strength`` of the steps, above 0 to 1; ``cache_interval``
    and ``full_steps`` are of these. ``mask``, the bytes of uint8 [H, W], says where that picture is drawn
    anew: from 128 on it is, below it stays.

    ``size`` is one of the picture sizes that the bundle makes, (width, height) in pixels; None is its first.
    """

    ids: Sequence[int]
    negative_ids: Sequence[int]
    noise: int | bytes
    steps: int
    cache_interval: int
    guidance: float
    full_steps: tuple[int, ...] = ()
    sampler: str = "ddim"
    image: bytes = b""
    strength: float = 0.8
    mask: bytes = b""
    size: tuple[int, int] | None = None

    @property
    def steps_taken(self) -> int:
        """How many steps run."""
        return steps_taken(self.steps, self.strength) if self.image else self.steps

    def message(self, wait_seconds: float | None) -> tuple[dict[str, Any], bytes]:
        """Return object and raw bytes of a call of ``draw``."""
        seed, body = (None, self.noise) if isinstance(self.noise, bytes) else (self.noise, self.image)
        body += self.mask
        head = {
            "size": None if self.size is None else list(self.size),
            "ids": list(self.ids),
            "negative_ids": list(self.negative_ids),
            "seed": seed,
            "strength": self.strength if self.image else None,
            "mask_bytes": len(self.mask) if self.mask else None,
            "sampler": self.sampler,
            "steps": self.steps,
            "cache_interval": self.cache_interval,
            "full_steps": list(self.full_steps),
            "guidance": self.guidance,
            "wait_seconds": wait_seconds,
        }
        return head, body


@dataclass(frozen=True)
class Picture:
    """Pixels [B, H, W, 3] uint8 and final latents [B, 4, h, w] float32."""

    pixels: NDArray[np.uint8]
    latents: NDArray[np.float32]


@dataclass(frozen=True)
class DrawProgress:
    """How far an image is.

    ``state`` is ``idle``, ``text``, ``denoise``, ``decode`` or ``done``, and ``size`` the image's (width,
    height) in pixels. ``timings`` has ``seconds``
    (``text``, ``denoise``, ``decode``, which count computing only, and ``total``, the time since the image
    was asked for, for the first one since the session was opened, which includes loading), ``full_steps``,
    ``cached_steps``, and ``seconds_full_step`` and ``seconds_cached_step``: medians over the steps of a kind
    but its first, which may compile kernels; of the first where it is the only one, None without any.
    ``replayed_steps`` were launched from a recording. ``preview`` holds latents after ``preview_step`` steps,
    where one was asked for.
    """

    state: str
    size: tuple[int, int]
    steps_done: int
    steps: int
    timings: dict[str, Any]
    replayed_steps: int
    preview: NDArray[np.float32] | None
    preview_step: int | None
    picture: Picture | None

    @property
    def drawn(self) -> Picture:
        """The picture of an image that is done."""
        assert self.picture is not None, f"the image is not done: {self.state}"
        return self.picture

    @classmethod
    def of(cls, result: Mapping[str, Any], body: bytes, manifest: Manifest) -> DrawProgress:
        """Read the answer of a session to ``draw`` or ``poll``."""
        size = manifest.size_of((result["size"][0], result["size"][1]))
        image, shape = manifest.image_of(size.image_size), manifest.latents_of(size.latent_size).shape
        picture, preview = None, None
        if result["state"] == "done":
            pixels = np.frombuffer(body, np.uint8, image.bytes).reshape(image.shape)
            latents = np.frombuffer(body, "<f4", offset=image.bytes).reshape(shape)
            picture = Picture(pixels, latents)
        elif body:
            preview = np.frombuffer(body, "<f4").reshape(shape)
        return cls(**{**result, "size": size.image_size}, preview=preview, picture=picture)


class ImageSession(Protocol):
    """What a :class:`~ddimcache.runtime.session.Session` and its remote counterpart have in common."""

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of itself."""

    @property
    def peak_bytes(self) -> int:
        """The most memory that was in use at once."""

    def draw(self, request: ImageRequest, wait_seconds: float | None = None) -> DrawProgress:
        """Begin an image; wait for its end or so long."""

    def poll(self, wait_seconds: float = 0.0, *, preview: bool = False) -> DrawProgress:
        """Tell how far the image is."""

    def cancel(self) -> None:
        """End the image at work."""

    def close(self) -> None:
        """Give everything back."""


def run_image(session: ImageSession, request: ImageRequest, progress: Progress) -> DrawProgress:
    """Make one image and return its end; an interrupt ends it between two steps.

    Raises what the session's methods raise.
    """
    try:
        answer = session.draw(request, 0.0)
        for number, name in enumerate(_STAGES):
            total = request.steps_taken if name == "denoise" else 1
            with progress.stage(name, total) as stage:
                shown = 0
                while answer.state in _STAGES[: number + 1]:
                    answer = session.poll(_POLL_SECONDS)
                    if name == "denoise" and answer.steps_done > shown:
                        stage.advance(answer.steps_done - shown)
                        shown = answer.steps_done
                if shown < total:
                    stage.advance(total - shown)
    except BaseException:
        with suppress(DdimcacheError):
            session.cancel()
        raise
    return answer


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


def read_picture(path: Path, option: str, size: tuple[int, int]) -> bytes:
    """Read a picture file and return its pixels uint8 [height, width, 3], stretched to ``size``.

    ``size`` is (width, height). Raises :class:`UsageError` naming the option for a file that is no picture.
    """
    return _stretched(_read_rgb(path, option), size).tobytes()


def read_mask(path: Path, option: str, size: tuple[int, int]) -> bytes:
    """Read a mask, a picture file of any mode and size, and return its brightness uint8 [height, width].

    It is stretched to ``size``, (width, height). What is white there is drawn anew. Raises
    :class:`UsageError` naming the option for a file that is no picture, or one that is nowhere white.
    """
    mask = _stretched(_read_rgb(path, option), size).convert("L")
    pixels = mask.tobytes()
    if max(pixels) < _LEAST_WHITE:
        raise UsageError(
            f"{path} is nowhere white, so nothing would be drawn",
            where=option,
            remedy="make white what is to be drawn anew, and black what stays",
        )
    return pixels


def _read_rgb(path: Path, option: str) -> PictureFile:
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as opened:
            picture = ImageOps.exif_transpose(opened)
            if picture.mode in ("I", "F"):
                raise UsageError(
                    f"{path} has numbers of 32 bits for its pixels",
                    where=option,
                    remedy="save it with 8 bits a channel",
                )
            if picture.mode.startswith("I;16"):
                # Pillow would clip to 255 what goes to 65535.
                picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
            return picture.convert("RGB")
    except UnidentifiedImageError as error:
        raise UsageError(f"{path} is no picture that can be read", where=option) from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}", where=option) from error
    except (ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UsageError(f"{path} is no picture that can be read: {error}", where=option) from error


def _stretched(picture: PictureFile, size: tuple[int, int]) -> PictureFile:
    from PIL import Image

    # As diffusers' image processor does.
    return picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS)


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
