"""Records to and from MetaSchedule's own JSON database.

A record becomes what MetaSchedule keeps of a tuning: the kernel before any decision as the workload, a trace,
the measured seconds, the target, the arguments. The trace has one instruction, an annotation of the root
block that holds the record, because our schedules are not traces: a database from MetaSchedule's own tuner
has none, and nothing of it can be taken. TVM reads the database in a process of its own, so that a damaged
one ends that process at most, and what it hands over is checked as any line of records.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from ddimcache.compiler.target import DeviceProfile
from ddimcache.errors import BundleError, UsageError
from ddimcache.kernels.tags import WORKLOAD
from ddimcache.records import RecordProblem, from_json, to_json
from ddimcache.schedules import tuning_records as store

RECORD = "ddimcache.record"
"""The annotation that holds a record as JSON."""

FILES = ("database_workload.json", "database_tuning_record.json")
"""What MetaSchedule calls the two tables in a working folder."""

NOT_OURS = b"null"
"""What is read of a record without that annotation."""

_READING_SECONDS = 300


def export_records(log: store.TuningLog, device: DeviceProfile, folder: Path) -> int:
    """Writes the records of ``log`` as a database into ``folder``; returns how many.

    Raises :class:`UsageError` where a database is there already.
    """
    from tvm import s_tir
    from tvm.s_tir.meta_schedule.arg_info import ArgInfo
    from tvm.s_tir.meta_schedule.database import TuningRecord

    for name in FILES:
        if (folder / name).exists():
            raise UsageError(f"{folder} holds a database already", where="--export-metaschedule")
    folder.mkdir(parents=True, exist_ok=True)
    database = _database(folder)
    for record in log.records.values():
        module = _module(record, device)
        schedule = s_tir.Schedule(module)
        text = json.dumps(to_json(record), sort_keys=True)
        schedule.annotate(schedule.get_sblock("root"), RECORD, text)
        arguments = ArgInfo.from_prim_func(module["main"])
        workload = database.commit_workload(module)
        database.commit_tuning_record(
            TuningRecord(schedule.trace, workload, [record.seconds], device.tvm_target(), arguments)
        )
    return len(log.records)


def import_records(folder: Path, device: DeviceProfile) -> store.TuningLog:
    """The records of the database in ``folder`` that are good for ``device``, and what was skipped.

    Raises :class:`UsageError` without a database, :class:`BundleError` for one that TVM cannot read.
    """
    for name in FILES:
        if not (folder / name).is_file():
            raise UsageError(f"{folder} holds no {name}", where="--import-metaschedule")
        store.lines_of(folder / name)  # of a believable size, and no fifo
    command = [sys.executable, "-m", "ddimcache.tuning.metaschedule", str(folder)]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=_READING_SECONDS, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired as error:
        raise BundleError(f"was not read in {_READING_SECONDS} s", where=folder) from error
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise BundleError(
            f"TVM cannot read the database: {lines[-1][:300] if lines else f'ended with {done.returncode}'}",
            where=folder,
        )
    records = {}
    skipped = []
    for number, line in enumerate(done.stdout.splitlines(), 1):
        try:
            if line == NOT_OURS:
                raise RecordProblem("", "a trace of another tuner; our schedules take decisions, no traces")
            record = from_json(store.TuningRecord, store.read_line(line))
            if record.device != device.name:
                raise RecordProblem("device", f"{record.device}, not {device.name}")
            if (reason := store.stale(record, device)) is not None:
                raise RecordProblem("", reason)
        except (RecordProblem, UnicodeDecodeError) as error:
            skipped.append(f"{folder}, record {number} is skipped: {error}"[:400])
            continue
        records[record.workload] = record
    return store.TuningLog(records, tuple(skipped))


def _database(folder: Path) -> Any:
    from tvm.s_tir.meta_schedule.database import JSONDatabase

    return JSONDatabase(*(str(folder / name) for name in FILES))


def _module(record: store.TuningRecord, device: DeviceProfile) -> Any:
    """The kernel of a record's workload, with the defaults where decisions shape its arguments."""
    import tvm

    from ddimcache.tuning import kernels

    workload = record.workload
    function = kernels.unscheduled(workload, device, kernels.blank_arguments(workload, device))
    function = function.with_attrs({WORKLOAD: workload.text, "global_symbol": "main"})
    return tvm.IRModule({"main": function})


def _print_records(folder: Path) -> None:
    """Prints what each record of a database is annotated with, a line each: :data:`NOT_OURS` without."""
    for record in _database(folder).get_all_tuning_records():
        found = None
        for instruction in record.trace.insts:
            if str(instruction.kind.name) == "Annotate" and list(map(str, instruction.attrs)) == [RECORD]:
                found = str(instruction.inputs[1])
        print(NOT_OURS.decode() if found is None else found.strip('"').replace("\n", " "))


if __name__ == "__main__":
    _print_records(Path(sys.argv[1]))
