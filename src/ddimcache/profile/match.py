"""Which launch of the bundle's lists every command of a timeline was."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from ddimcache.errors import BundleError
from ddimcache.launches import Launch
from ddimcache.manifest import GUIDED, TIMES_AT_ONCE
from ddimcache.runtime.bundle import Bundle
from ddimcache.runtime.profiler import Timeline

_FURTHER = re.compile(r"_kernel_\d+")


@dataclass(frozen=True)
class Call:
    """One call of a compiled function; ``step`` counts from 0, and is None outside the loop."""

    component: str
    function: str
    step: int | None = None


@dataclass(frozen=True)
class TimedLaunch:
    """A launch of ``calls[call]`` with its times in nanoseconds on the device's clock."""

    call: int
    launch: Launch
    start: int
    end: int


@dataclass(frozen=True)
class TimedCopy:
    """A command that is no kernel, such as ``copy host to device``."""

    name: str
    start: int
    end: int


@dataclass(frozen=True)
class Image:
    """Everything that the device did for one image, in order."""

    calls: tuple[Call, ...]
    launches: tuple[TimedLaunch, ...]
    copies: tuple[TimedCopy, ...]

    def commands(self) -> list[tuple[int, int]]:
        """Return start and end of everything, by start."""
        launches = [(timed.start, timed.end) for timed in self.launches]
        return sorted(launches + [(copy.start, copy.end) for copy in self.copies])


def expected_calls(
    steps: int, cache_interval: int, guided: bool, once: Collection[str] = (), in_one_call: bool = False
) -> list[Call]:
    """Return the calls that an image makes; ``guided`` runs the UNet twice a step, or once ``in_one_call``.

    ``once`` names those functions of the UNet that run before steps. The image before was of another
    schedule: what is made of 64 timesteps is kept for another image that begins with the same.
    """
    prompts = 1 + guided
    both = guided and in_one_call
    times, ending = (1, GUIDED) if both else (prompts, "")
    last = "guide_both_and_step" if both else "guide_and_step" if guided else "step"
    calls = [Call("text_encoder", "encode")] * prompts
    calls += [Call("unet", "project_context")] * (prompts * ("project_context" in once))
    for step in range(steps):
        if "embed_time" in once and step % TIMES_AT_ONCE == 0:
            calls.append(Call("unet", "embed_time"))
        calls.append(Call("unet", "next_step", step))
        calls += [Call("unet", ("cached" if step % cache_interval else "full") + ending, step)] * times
        calls.append(Call("unet", last, step))
    return [*calls, Call("vae_decoder", "decode")]


def match(timeline: Timeline, calls: Sequence[Call], bundle: Bundle) -> Image:
    """Give every command its launch.

    Raises :class:`BundleError` at the first kernel that is not the one that the bundle's lists have there.
    """
    expected = _expected_launches(calls, bundle)
    launches: list[TimedLaunch] = []
    copies: list[TimedCopy] = []
    for name_index, _, start, end in timeline.commands.tolist():
        name = timeline.names[name_index]
        if " " in name:  # no kernel has one: the runtime's names of copies
            copies.append(TimedCopy(name, start, end))
            continue
        last = launches[-1] if launches else None
        if last is not None and _FURTHER.fullmatch(name.removeprefix(last.launch.kernel)):
            # Several device kernels of one launch count as one that lasts until the last has ended.
            launches[-1] = TimedLaunch(last.call, last.launch, last.start, end)
            continue
        found = next(expected, None)
        if found is None:
            raise _contradiction(bundle, len(launches), name, "nothing more")
        call, launch = found
        if name not in (f"{launch.kernel}_kernel", launch.kernel):
            raise _contradiction(bundle, len(launches), name, f"{launch.kernel} of {calls[call].function}")
        launches.append(TimedLaunch(call, launch, start, end))
    if (found := next(expected, None)) is not None:
        call, launch = found
        raise _contradiction(bundle, len(launches), "nothing", f"{launch.kernel} of {calls[call].function}")
    return Image(tuple(calls), tuple(launches), tuple(copies))


def _expected_launches(calls: Sequence[Call], bundle: Bundle) -> Iterator[tuple[int, Launch]]:
    lists = {
        component: bundle.launches(component).functions for component in {call.component for call in calls}
    }
    for number, call in enumerate(calls):
        if call.function not in lists[call.component]:
            where = bundle.path(bundle.manifest.components[call.component].launches)
            remedy = "compile it again with `ddimcache compile`"
            raise BundleError(f"has no launches of {call.function!r}", where=where, remedy=remedy)
        for launch in lists[call.component][call.function]:
            yield number, launch


def _contradiction(bundle: Bundle, position: int, found: str, expected: str) -> BundleError:
    return BundleError(
        f"launch {position} of the image was {found}, its lists of launches say {expected}",
        where=bundle.folder,
        remedy="its libraries and lists are of different compilations: compile it again",
    )
