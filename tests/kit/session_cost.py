"""What watching an image costs and the modes of memory take: ``python -m tests.kit.session_cost BUNDLE``.

Images are drawn in turns with and without polls (and previews), and the medians of their loops compared; then
each mode of memory draws two images in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from ddimcache.runtime.bundle import Bundle, open_bundle
from ddimcache.runtime.devices import parse_device
from ddimcache.runtime.image import MEMORY_MODES, DrawProgress, ImageRequest, MemoryChoice
from ddimcache.runtime.session import Session


def request_for(bundle: Bundle, steps: int, interval: int) -> ImageRequest:
    """An image of ordinary token ids, guided."""
    length = bundle.manifest.context.shape[1]
    return ImageRequest([1] * length, [2] * length, 1, steps, interval, 7.5)


def watched(session: Session, request: ImageRequest, seconds: float, *, preview: bool) -> DrawProgress:
    """Draw an image and poll it every so many seconds."""
    progress = session.draw(request, seconds)
    while progress.state != "done":
        progress = session.poll(seconds, preview=preview)
    return progress


def compare_watching(bundle: Bundle, request: ImageRequest, rounds: int) -> None:
    """Print the loop's seconds by how closely it was watched."""
    session = Session(bundle, parse_device(bundle.manifest.device_kind))
    ways = {
        "one call": lambda: session.draw(request),
        "a poll every 200 ms": lambda: watched(session, request, 0.2, preview=False),
        "a poll and a preview every 200 ms": lambda: watched(session, request, 0.2, preview=True),
    }
    session.draw(request)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, draw in ways.items():
            seconds[name].append(draw().timings["seconds"]["denoise"])
    base = statistics.median(seconds["one call"])
    for name, times in seconds.items():
        median = statistics.median(times)
        print(f"{name:35} {median:8.3f} s {100 * (median / base - 1):+6.1f} %", flush=True)
    session.close()


def measure_mode(bundle: Bundle, request: ImageRequest, mode: str) -> dict[str, float]:
    """Draw two images with one mode; return peak and estimate in bytes, and the seconds of each image."""
    choice = next(MemoryChoice(name) for name in MEMORY_MODES if name == mode)
    session = Session(bundle, parse_device(bundle.manifest.device_kind), choice)
    first = session.draw(request).timings["seconds"]["total"]
    second = session.draw(request).timings["seconds"]["total"]
    facts = {
        "peak": session.peak_bytes,
        "estimate": session.memory_estimate,
        "first": first,
        "second": second,
    }
    session.close()
    return facts


def main() -> None:
    """Read the command line and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--interval", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--mode")
    options = parser.parse_args()
    bundle = open_bundle(options.bundle, sums=False)
    request = request_for(bundle, options.steps, options.interval)
    if options.mode:
        print(json.dumps(measure_mode(bundle, request, options.mode)))
        return
    if options.rounds:
        compare_watching(bundle, request, options.rounds)
    for mode in MEMORY_MODES[1:]:
        output = subprocess.run(
            [sys.executable, "-m", "tests.kit.session_cost", *sys.argv[1:], "--mode", mode],
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        ).stdout
        facts = json.loads(output)
        print(
            f"{mode:12} peak {facts['peak'] / 1e6:7.1f} MB, estimate {facts['estimate'] / 1e6:7.1f} MB, "
            f"first image {facts['first']:6.2f} s, second {facts['second']:6.2f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
