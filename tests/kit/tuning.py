"""Folders of tuning records, as ``ddimcache tune`` leaves them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ddimcache.compiler.target import TileTable
from ddimcache.kernels.workload import Workload
from ddimcache.schedules import tuning_records as store
from ddimcache.schedules.spaces import VERSIONS, problem, space_of


def record(workload: Workload, decisions: Mapping[str, int], device: str, **other: Any) -> store.TuningRecord:
    """A record of ``workload`` as if it had been measured; ``other`` fields replace it."""
    facts: dict[str, Any] = {
        "op": workload.family,
        "shape": workload.sizes,
        "dtype": workload.dtype,
        "weights": workload.weights,
        "device": device,
        "decisions": dict(decisions),
        "seconds": 0.5,
        "default_seconds": 1.0,
        "error": 1e-6,
        "method": "measured",
        "version": VERSIONS.get(workload.family, 1),
        "tool": "test",
    }
    return store.TuningRecord(**{**facts, **other})


def write_folder(folder: Path, profile: str, records: list[store.TuningRecord]) -> Path:
    """A folder for ``profile`` with ``records``."""
    folder.mkdir(parents=True, exist_ok=True)
    origin = store.Origin("measured", "a device", "1", {}, "2026", "test")
    store.write_manifest(folder, store.TuningManifest(store.FORMAT, profile).having(origin))
    for entry in records:
        store.append(folder / store.RECORDS, entry)
    return folder


def other_decisions(tiles: TileTable, workload: Workload, seed: int) -> dict[str, int]:
    """Random decisions about ``workload`` that its space allows."""
    random, space = np.random.default_rng(seed), space_of(tiles, workload)
    while True:
        found = {place: int(random.choice(numbers)) for place, numbers in sorted(space.items())}
        if problem(tiles, workload, found) is None:
            return found
