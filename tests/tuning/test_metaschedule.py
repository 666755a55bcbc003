"""Records go to MetaSchedule's database and back as they were; what is not ours is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from tvm import s_tir
from tvm.s_tir.meta_schedule.database import JSONDatabase

from ddimcache.compiler.target import profile
from ddimcache.errors import BundleError, UsageError
from ddimcache.kernels.workload import parse
from ddimcache.schedules import tuning_records as store
from ddimcache.tuning import metaschedule
from tests.kit.tuning import other_decisions, record, write_folder

DEVICE = profile("opencl")
TEXTS = [
    "matmul 64x32x64 float32 int8",
    "matmul 64x64x64 float32 int8g32",
    "geglu 32x32x128 float32 int8",
    "conv2d 1x8x8x16x32x3x3x1x1 float32 int8",
    "attention 1x32x32x2x16 float32 none",
]


@pytest.fixture
def log(tmp_path: Path) -> store.TuningLog:
    records = [
        record(parse(text), other_decisions(DEVICE.tiles, parse(text), 3), "opencl", seconds=0.25 + number)
        for number, text in enumerate(TEXTS)
    ]
    return store.read_log(write_folder(tmp_path / "log", "opencl", records), DEVICE)


def test_there_and_back(tmp_path: Path, log: store.TuningLog) -> None:
    assert metaschedule.export_records(log, DEVICE, tmp_path / "database") == len(TEXTS)
    found = JSONDatabase(*(str(tmp_path / "database" / name) for name in metaschedule.FILES))
    assert len(found) == len(TEXTS)
    seconds = sorted(float(entry.run_secs[0].value) for entry in found.get_all_tuning_records())
    assert seconds == [0.25 + number for number in range(len(TEXTS))]
    back = metaschedule.import_records(tmp_path / "database", DEVICE)
    assert back == log
    with pytest.raises(UsageError, match="holds a database already"):
        metaschedule.export_records(log, DEVICE, tmp_path / "database")


def test_what_is_not_ours_is_told(tmp_path: Path, log: store.TuningLog) -> None:
    from tvm.s_tir.meta_schedule.arg_info import ArgInfo
    from tvm.s_tir.meta_schedule.database import TuningRecord

    folder = tmp_path / "database"
    metaschedule.export_records(log, DEVICE, folder)
    database = JSONDatabase(*(str(folder / name) for name in metaschedule.FILES))
    module = database.get_all_tuning_records()[0].workload.mod
    for text in (None, "{}", '{"op": "matmul"}'):
        schedule = s_tir.Schedule(module)
        if text is not None:
            schedule.annotate(schedule.get_sblock("root"), metaschedule.RECORD, text)
        database.commit_tuning_record(
            TuningRecord(
                schedule.trace,
                database.commit_workload(module),
                [1e-9],
                DEVICE.tvm_target(),
                ArgInfo.from_prim_func(module["main"]),
            )
        )
    back = metaschedule.import_records(folder, DEVICE)
    assert back.records == log.records
    assert len(back.skipped) == 3
    assert sum("a trace of another tuner" in line for line in back.skipped) == 1
    other = metaschedule.import_records(folder, profile("llvm"))
    assert (other.records, len(other.skipped)) == ({}, len(TEXTS) + 3)


def test_a_damaged_database_is_refused(tmp_path: Path, log: store.TuningLog) -> None:
    with pytest.raises(UsageError, match="holds no database_workload"):
        metaschedule.import_records(tmp_path, DEVICE)
    folder = tmp_path / "database"
    metaschedule.export_records(log, DEVICE, folder)
    table = folder / metaschedule.FILES[1]
    table.write_bytes(table.read_bytes()[:-30] + b"]]")
    with pytest.raises(BundleError, match="TVM cannot read the database"):
        metaschedule.import_records(folder, DEVICE)
