"""MetaSchedule's own search over the kernel of a workload, with our builder, runner and reference.

It knows nothing of our schedules: from the kernel's plain loops its rules make a space of traces, of which
its evolutionary search proposes some. Each is built in a process of its own and run behind RPC as any trial
is: checked against the reference, then timed in turns with our schedule's defaults. What comes of it is kept
in MetaSchedule's database; ``compile`` takes decisions and no traces.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ddimcache.compiler.target import DeviceProfile
from ddimcache.errors import UsageError
from ddimcache.kernels.workload import Workload
from ddimcache.runtime.progress import Progress
from ddimcache.runtime.trial import Outcome
from ddimcache.tuning.builder import Built
from ddimcache.tuning.far_runner import FarRunner
from ddimcache.tuning.far_trials import Pair
from ddimcache.tuning.metaschedule import FILES
from ddimcache.tuning.tuner import CONFIRMING_REPEATS, Result, Task

FAMILIES = ("matmul", "geglu", "conv2d")
"""Those whose kernels are loops before they get a schedule; attention is emitted whole."""

FOLDER = "metaschedule"
RULES = {"llvm": "llvm", "opencl": "cuda"}
"""The set of MetaSchedule's rules for a kind of device; it has none for OpenCL, and a GPU's do."""

POPULATION = 512
"""Candidates of a generation, as MetaSchedule has it."""

BATCH = 16


class MetaScheduleSearch:
    """Searches for one workload after another on the devices of ``runner``; traces go into ``folder``."""

    def __init__(
        self,
        folder: Path,
        device: DeviceProfile,
        runner: FarRunner,
        *,
        seed: int = 0,
        population: int = POPULATION,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder, self.device, self.runner = folder, device, runner
        self.seed, self.population, self.clock = seed, population, clock

    def tune(
        self,
        tasks: Iterable[Task],
        trials: int,
        progress: Progress,
        *,
        seconds: float = math.inf,
        done: Callable[[Result], object] = lambda _: None,
    ) -> list[Result]:
        """Searches for each task with ``trials`` trials, in the order and with the options of a tuner.

        Nothing is begun after ``seconds``. Raises :class:`UsageError` for a family without loops,
        :class:`RemoteError` when no device is left.
        """
        end = self.clock() + seconds
        ordered = sorted(tasks, key=lambda task: -task.workload.macs * task.calls)
        for task in ordered:
            _check(task.workload)
        results = []
        with progress.stage("tune", total=trials * len(ordered)) as stage:
            for task in ordered:
                results.append(self._search(task.workload, trials, stage.advance, end))
                done(results[-1])
        return results

    def _search(
        self, workload: Workload, trials: int, advance: Callable[[int, str], object], end: float
    ) -> Result:
        """What ``trials`` traces came to; the best one's time over our defaults' is of a longer run."""
        from tvm.s_tir import meta_schedule

        module = self._module(workload)
        rules = RULES[self.device.kind]
        database = self._database()
        job = _Job(self, workload, advance, end)
        space = meta_schedule.space_generator.PostOrderApply(
            sch_rules=rules, postprocs=rules, mutator_probs=rules
        )
        context = meta_schedule.TuneContext(
            mod=module,
            target=self._target(),
            space_generator=space,
            search_strategy=meta_schedule.search_strategy.EvolutionarySearch(population_size=self.population),
            task_name="main",
            rand_state=self.seed + 1,
            num_threads=1,
            logger=logging.getLogger(__name__),
        )
        try:
            meta_schedule.tune_tasks(
                tasks=[context.clone()],
                task_weights=[1.0],
                work_dir=str(self.folder / FOLDER),
                max_trials_global=trials,
                num_trials_per_iter=min(trials, BATCH),
                builder=job.builder(),
                runner=job.runner(),
                database=database,
                # A third one removes the folder that an artifact is in.
                measure_callbacks=[
                    meta_schedule.measure_callback.AddToDatabase(),
                    meta_schedule.measure_callback.UpdateCostModel(),
                ],
            )
        except BaseException:
            if job.error is not None:  # what was raised comes back through TVM as something else
                raise job.error from None
            raise
        self._confirm(job, database, module)
        return job.result

    def _module(self, workload: Workload) -> Any:
        import tvm

        from ddimcache.tuning import kernels

        inputs = kernels.blank_arguments(workload, self.device)
        function = kernels.unscheduled(workload, self.device, inputs)
        return tvm.IRModule({"main": function.with_attr("global_symbol", "main")})

    def _target(self) -> Any:
        """The device's target as MetaSchedule wants it: it asks a CPU for its cores."""
        from tvm.target import Target

        target = self.device.tvm_target()
        if self.device.kind != "llvm":
            return target
        return Target({**dict(target.export()), "num-cores": 1})

    def _database(self) -> Any:
        from tvm.s_tir.meta_schedule.database import JSONDatabase

        folder = self.folder / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        return JSONDatabase(*(str(folder / name) for name in FILES))

    def _confirm(self, job: _Job, database: Any, module: Any) -> None:
        """Runs the best trace once more, for longer."""
        if not database.has_workload(module):
            return
        best = database.get_top_k(database.commit_workload(module), 1)
        if not best:
            return
        schedule = database.query_schedule(module, self._target(), "main")
        if schedule is None:
            return
        outcome = job.run(lambda host: job.build(schedule.mod, host), CONFIRMING_REPEATS)
        if outcome.ratio is not None:
            result = job.result
            result.ratio, result.seconds = outcome.ratio, outcome.seconds
            result.trace = f"a trace in {self.folder / FOLDER}"


def _check(workload: Workload) -> None:
    if workload.family not in FAMILIES:
        raise UsageError(
            f"{workload.text} has a kernel that is emitted whole; MetaSchedule finds no loops in it",
            where="--engine metaschedule",
            remedy=f"take --family {','.join(FAMILIES)}",
        )


class _Job:
    """The search for a workload: what MetaSchedule calls, and what came of it."""

    def __init__(
        self,
        search: MetaScheduleSearch,
        workload: Workload,
        advance: Callable[[int, str], object],
        end: float,
    ) -> None:
        self.search, self.workload, self.advance, self.end = search, workload, advance, end
        self.result = Result(workload)
        self.modules: dict[str, Any] = {}
        self.error: BaseException | None = None

    def build(self, module: Any, host: str) -> Pair | Outcome:
        """A trace's kernel and our defaults."""
        builder = self.search.runner.builder
        rival = builder.build(self.workload, {}, host)
        if isinstance(rival, Outcome):
            return Outcome("failed", message=f"the defaults were not built: {rival.message}"[:500])
        candidate = builder.build_module(module, rival.kernel, host)
        if isinstance(candidate, Outcome):
            return candidate
        files = {**rival.files, **candidate.files}
        return Built(candidate.kernel, files), rival

    def run(self, build: Callable[[str], Pair | Outcome], repeats: int = 5) -> Outcome:
        """The outcome of a trial."""
        question = self.search.runner.question(self.workload, repeats)
        return self.search.runner.trials.run(build, question)

    def try_one(self, name: str) -> Outcome:
        """The outcome of a trace that MetaSchedule proposed; nothing is begun after the end."""
        if self.search.clock() >= self.end:
            return Outcome("refused", message="the time is over")
        outcome = self.run(lambda host: self.build(self.modules[name], host))
        result = self.result
        result.statuses[outcome.status] = result.statuses.get(outcome.status, 0) + 1
        self.advance(1, f"{self.workload.text}, {outcome.status}: {outcome.message}"[:100])
        return outcome

    def builder(self) -> Any:
        """MetaSchedule's builder: it hands on; each trace is built where it is known for which host."""
        from tvm.ir.utils import derived_object
        from tvm.s_tir.meta_schedule.builder import BuilderResult, PyBuilder

        job = self

        @derived_object
        class Builder(PyBuilder):
            def build(self, build_inputs: list[Any]) -> list[Any]:
                results = []
                for entry in build_inputs:
                    name = str(len(job.modules))
                    job.modules[name] = entry.mod
                    results.append(BuilderResult(name, None))
                return results

        return Builder()

    def runner(self) -> Any:
        """MetaSchedule's runner: our trials, as many at once as there are devices."""
        from tvm.ir.utils import derived_object
        from tvm.s_tir.meta_schedule.runner import PyRunner, PyRunnerFuture, RunnerResult

        job = self

        @derived_object
        class Future(PyRunnerFuture):
            def __init__(self, outcome: Outcome) -> None:
                super().__init__()
                self.outcome = outcome

            def done(self) -> bool:
                return True

            def result(self) -> Any:
                if self.outcome.status != "good":
                    return RunnerResult(None, f"{self.outcome.status}: {self.outcome.message}")
                return RunnerResult([self.outcome.seconds], None)

        @derived_object
        class Runner(PyRunner):
            def run(self, runner_inputs: list[Any]) -> list[Any]:
                names = [str(entry.artifact_path) for entry in runner_inputs]
                with ThreadPoolExecutor(job.search.runner.width) as threads:
                    try:
                        return [Future(outcome) for outcome in threads.map(job.try_one, names)]
                    except BaseException as error:
                        job.error = error
                        threads.shutdown(wait=False, cancel_futures=True)
                        job.search.runner.abort()
                        raise

        return Runner()
