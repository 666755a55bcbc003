"""One image after another from one bundle on one device of this machine.

The work is done in C++ (``runtime/cc/session/``), on a thread of its own; this is how Python sees it. The
same class runs in the process of the command line and, behind :mod:`ddimcache.runtime.rpc_server`, on the
phone.
"""

from __future__ import annotations

import math
from typing import Any

from ddimcache.errors import UsageError
from ddimcache.manifest import Manifest
from ddimcache.runtime.bundle import Bundle
from ddimcache.runtime.devices import DeviceSpec
from ddimcache.runtime.image import DrawProgress, ImageRequest, MemoryChoice
from ddimcache.runtime.local_device import open_device
from ddimcache.runtime.native import answer_of, ask, native
from ddimcache.runtime.noise import LARGEST_SEED
from ddimcache.runtime.rpc_protocol import pack
from ddimcache.runtime.sampler import SAMPLERS, steps_taken

MOST_STEPS = 1000


class Session:
    """A bundle on a device, and a thread that draws.

    :meth:`draw` begins an image, :meth:`poll` tells how far it is and gives the picture once it is done,
    :meth:`cancel` ends it early. Components are loaded when they are first used. Any thread may call.

    Parameters
    ----------
    bundle : an opened bundle.
    device : a local device of the kind that the bundle was compiled for.
    memory : which components are on the device together, and how much it may hold.
    replay : replay recorded steps where the device can; otherwise launch every kernel of every step.

    Raises :class:`DeviceError` when the device is of another kind or absent, :class:`UsageError` when nothing
    fits into the budget.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: DeviceSpec,
        memory: MemoryChoice = MemoryChoice(),  # noqa: B008  frozen
        *,
        replay: bool = True,
    ) -> None:
        open_device(device, bundle.manifest.device_kind)
        self.bundle = bundle
        head = {
            "bundle": str(bundle.folder),
            "device": str(device),
            "memory": memory.mode,
            "memory_budget": memory.budget,
            "verified": True,
            "replay": replay,
        }
        answer = native("open")(pack(head))
        if isinstance(answer, bytes):
            answer_of(answer)
        self._module: Any = answer
        self._facts: dict[str, Any] = self.answer("facts")[0]

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of itself."""
        return self.bundle.manifest

    @property
    def memory(self) -> str:
        """Which components are on the device together: ``resident``, ``pipelined`` or ``load-on-use``."""
        return str(self._facts["memory"])

    @property
    def memory_estimate(self) -> int:
        """Bytes on the device at most with that mode, by the manifest."""
        return int(self._facts["memory_estimate"])

    def draw(self, request: ImageRequest, wait_seconds: float | None = None) -> DrawProgress:
        """Begin an image; wait for its end, or so many seconds for its end, and tell how far it is.

        Raises :class:`UsageError` for a request that is wrong, or when an image is at work already, and as
        :meth:`poll`.
        """
        check_request(request)
        head, body = request.message(wait_seconds)
        return self._progress(*self.answer("draw", head, body))

    def poll(self, wait_seconds: float = 0.0, *, preview: bool = False) -> DrawProgress:
        """Wait up to so many seconds for another stage, and tell how far the image is.

        With ``preview`` the loop leaves its latents at the end of its next step, for this answer or the next.

        Raises :class:`DeviceError` when the device failed or the latents are not finite, :class:`BundleError`
        when a library or weight file does not fit, :class:`CancelledError` when the image was cancelled.
        """
        return self._progress(*self.answer("poll", {"wait_seconds": wait_seconds, "preview": preview}))

    def cancel(self) -> None:
        """End the image at work: no further step begins."""
        self.answer("cancel")

    @property
    def peak_bytes(self) -> int:
        """The most memory in use at once since the session was opened.

        On the device where that is counted, of the process elsewhere.
        """
        return int(self.answer("peak_bytes")[0])

    def close(self) -> None:
        """Cancel what is at work and give the memory on the device back."""
        self.answer("close")

    def answer(self, name: str, head: dict[str, Any] | None = None, body: bytes = b"") -> tuple[Any, bytes]:
        """Call a method of the C++ session with a message; return result and raw bytes of its reply."""
        return ask(self._module[name], head or {}, body)

    def _progress(self, result: dict[str, Any], body: bytes) -> DrawProgress:
        return DrawProgress.of(result, body, self.manifest)


def check_request(request: ImageRequest) -> None:
    """Raise :class:`UsageError` for numbers that a message cannot carry or no sampler takes."""
    check_sampling(request.steps, request.cache_interval, request.guidance, request.sampler)
    if request.image:
        check_strength(request.steps, request.strength)
        if isinstance(request.noise, bytes):
            raise UsageError(
                "a picture is drawn on with noise of the seed",
                where="initial latents",
                remedy="give a seed instead",
            )
    if request.mask and not request.image:
        raise UsageError(
            "says where a picture is drawn anew, and there is none",
            where="--mask",
            remedy="give --image as well",
        )
    if isinstance(request.noise, int) and not 0 <= request.noise <= LARGEST_SEED:
        raise UsageError(f"{request.noise} is outside 0 … 2⁶³ − 1", where="seed")


def check_strength(steps: int, strength: float) -> None:
    """Raise :class:`UsageError` for a strength that is no share of the steps, or leaves none of them."""
    if not 0 < strength <= 1:
        raise UsageError(
            f"{strength:g} is no share of the steps",
            where="--strength",
            remedy="use a number above 0, at most 1",
        )
    if steps_taken(steps, strength) < 1:
        raise UsageError(f"it leaves none of {steps} steps", where="--strength", remedy="use more of either")


def check_sampling(steps: int, cache_interval: int, guidance: float, sampler: str = "ddim") -> None:
    """Raise :class:`UsageError` naming the option when a number is outside what the sampler takes."""
    if sampler not in SAMPLERS:
        raise UsageError(f"{sampler!r} is none of: {', '.join(SAMPLERS)}", where="--sampler")
    if not 1 <= steps <= MOST_STEPS:
        raise UsageError(f"{steps} is outside 1 … {MOST_STEPS}", where="--steps")
    if cache_interval < 1:
        raise UsageError(f"{cache_interval} is below 1", where="--cache-interval", remedy="1 is no cache")
    if not (math.isfinite(guidance) and guidance >= 0):
        raise UsageError(f"{guidance} is no finite number from 0 up", where="--guidance")
