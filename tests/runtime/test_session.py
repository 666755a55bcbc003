"""The loop on the device: held against numpy, counted, timed, and refused in words."""

import ast
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ddimcache.errors import CancelledError, DeviceError, UsageError
from ddimcache.runtime import rpc
from ddimcache.runtime.bundle import open_bundle
from ddimcache.runtime.devices import DeviceSpec, launches, memory_use, profile_start, profile_stop
from ddimcache.runtime.image import ImageRequest, MemoryChoice, run_image
from ddimcache.runtime.noise import noise
from ddimcache.runtime.progress import SilentProgress
from ddimcache.runtime.sampler import schedule
from ddimcache.runtime.session import Session
from tests.fakes import fake_bundle as fake
from tests.kit.family import stand_in
from tests.kit.shared_bundles import compiled

LLVM = DeviceSpec("llvm")
IDS = [index % fake.VOCABULARY for index in range(fake.LENGTH)]
NEGATIVE = [(3 * index + 1) % fake.VOCABULARY for index in range(fake.LENGTH)]


REQUEST = ImageRequest(IDS, NEGATIVE, 11, 10, 3, 7.5)


@pytest.fixture(scope="module")
def session(fake_bundle):
    session = Session(open_bundle(fake_bundle), LLVM)
    yield session
    session.close()


@pytest.fixture(scope="module")
def opencl_bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("opencl")
    return fake.build_fake_bundle(folder / "bundle", folder, "opencl")


def expected_latents(latents, steps, interval, guidance, target="llvm", full_steps=()):
    """The loop in numpy float32, on the same kernels' formula."""
    reference = fake.Reference.of(IDS, NEGATIVE, target)
    features = {}
    for step in schedule(fake.SAMPLER, steps, interval):
        c = step.coefficients
        if step.index in full_steps if full_steps else step.is_full:
            features = {
                negative: reference.feature(latents, step.timestep, negative) for negative in (False, True)
            }
        predicted = reference.noise(latents, features[False])
        if guidance > 1:
            without = reference.noise(latents, features[True])
            predicted = without + np.float32(guidance) * (predicted - without)
        latents = c.a * (c.p * latents + c.q * predicted) + c.b * (c.r * latents + c.s * predicted)
        latents = latents.astype("float32")
    return latents


@pytest.mark.parametrize("guidance", [0.0, 1.0, 7.5])
@pytest.mark.parametrize(("steps", "interval"), [(1, 1), (10, 1), (10, 3), (7, 20)])
def test_same_as_numpy(session, steps, interval, guidance):
    done = session.draw(ImageRequest(IDS, NEGATIVE, 11, steps, interval, guidance))
    assert (done.state, done.steps_done, done.steps) == ("done", steps, steps)
    expected = expected_latents(noise(11, session.manifest.latents.shape), steps, interval, guidance)
    latents = done.picture.latents
    np.testing.assert_allclose(latents, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    image = fake.Reference.of(IDS, NEGATIVE).image(latents)
    np.testing.assert_array_equal(done.picture.pixels, image)
    full = -(-steps // interval)
    assert (done.timings["full_steps"], done.timings["cached_steps"]) == (full, steps - full)


@pytest.mark.parametrize("full_steps", [(0,), (0, 1, 2, 7), (0, 9), tuple(range(10))])
def test_any_steps_may_be_full(session, full_steps):
    done = session.draw(replace(REQUEST, full_steps=full_steps))
    assert (done.timings["full_steps"], done.timings["cached_steps"]) == (
        len(full_steps),
        10 - len(full_steps),
    )
    start = noise(11, session.manifest.latents.shape)
    expected = expected_latents(start, 10, REQUEST.cache_interval, 7.5, full_steps=full_steps)
    np.testing.assert_allclose(done.picture.latents, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_more_steps_than_are_embedded_at_once(session):
    """The rows of 64 timesteps give way to those of the next 64, and are made again for the next image."""
    for steps in (150, 65, 64):
        done = session.draw(ImageRequest(IDS, NEGATIVE, 11, steps, 7, 7.5))
        expected = expected_latents(noise(11, session.manifest.latents.shape), steps, 7, 7.5)
        np.testing.assert_allclose(
            done.picture.latents, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max(), err_msg=str(steps)
        )


@pytest.mark.opencl
@pytest.mark.parametrize(("batch", "hoisted"), [(1, True), (2, True), (1, False)])
def test_same_as_numpy_on_opencl(tmp_path, batch, hoisted):
    folder = fake.build_fake_bundle(tmp_path / "bundle", tmp_path, "opencl", batch, hoisted)
    bundle = open_bundle(folder)
    session = Session(bundle, DeviceSpec("opencl"))
    done = session.draw(REQUEST)
    expected = expected_latents(noise(11, bundle.manifest.latents.shape), 10, 3, 7.5, "opencl")
    np.testing.assert_allclose(done.picture.latents, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    assert done.picture.pixels.shape == (batch, 64, 64, 3)
    assert bundle.manifest.weights_bytes < session.peak_bytes < 10_000_000
    session.close()


def test_a_unet_without_anything_to_compute_once(tmp_path):
    """It takes timestep and context as they are."""
    bundle = open_bundle(fake.build_fake_bundle(tmp_path / "bundle", tmp_path, hoisted=False))
    session = Session(bundle, LLVM)
    for steps in (10, 70):
        done = session.draw(replace(REQUEST, steps=steps))
        expected = expected_latents(noise(11, bundle.manifest.latents.shape), steps, 3, 7.5)
        np.testing.assert_allclose(
            done.picture.latents, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max()
        )
    session.close()


@pytest.mark.opencl
def test_what_is_computed_once(opencl_bundle):
    """Timesteps are embedded for the first image of a schedule, prompts are projected for every image."""
    session = Session(open_bundle(opencl_bundle), DeviceSpec("opencl"), replay=False)

    def launches_of(steps, prompt):
        before = launches()
        session.draw(replace(REQUEST, ids=prompt, steps=steps, cache_interval=1, guidance=1.0))
        return launches() - before

    first, again = launches_of(3, IDS), launches_of(3, NEGATIVE)
    assert again < first
    assert launches_of(3, IDS) == again
    longer = launches_of(4, IDS)
    assert launches_of(3, IDS) == first
    # A step more, and nothing else.
    assert launches_of(4, IDS) == longer
    assert (longer - first) * 3 < first
    session.close()


@pytest.mark.opencl
@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_replayed_steps_have_the_same_bits(opencl_bundle, guidance):
    bundle = open_bundle(opencl_bundle)
    request = replace(REQUEST, steps=70, full_steps=(0, 1, 5, 6, 7, 19, 66), guidance=guidance)
    plain = Session(bundle, DeviceSpec("opencl"), replay=False)
    replaying = Session(bundle, DeviceSpec("opencl"))
    expected = plain.draw(request)
    assert expected.replayed_steps == 0
    # Steps of another kind in between: the recordings of the first image do not fit the second.
    other = replaying.draw(replace(request, guidance=8.5 - guidance)).picture.latents
    for _ in range(2):
        done = replaying.draw(request)
        assert done.picture.latents.tobytes() == expected.picture.latents.tobytes()
        assert done.picture.pixels.tobytes() == expected.picture.pixels.tobytes()
    assert done.replayed_steps == 70
    assert other.tobytes() == plain.draw(replace(request, guidance=8.5 - guidance)).picture.latents.tobytes()
    plain.close()
    replaying.close()


@pytest.mark.opencl
def test_sessions_that_take_turns_do_not_disturb_each_other(opencl_bundle):
    """What one session's recordings write to belongs to no other session."""
    bundle = open_bundle(opencl_bundle)
    sessions = [Session(bundle, DeviceSpec("opencl")) for _ in range(3)]
    requests = [replace(REQUEST, noise=seed, steps=40) for seed in range(3)]
    alone = [session.draw(request) for session, request in zip(sessions, requests, strict=True)]
    for _ in range(3):
        for session, request in zip(sessions, requests, strict=True):
            session.draw(request, 0.0)
        for session, expected in zip(sessions, alone, strict=True):
            done = session.poll()
            while done.state != "done":
                done = session.poll(1.0)
            assert done.picture.latents.tobytes() == expected.picture.latents.tobytes()
    for session in sessions:
        session.close()


@pytest.mark.opencl
def test_guidance_doubles_the_calls_of_the_unet(opencl_bundle):
    session = Session(open_bundle(opencl_bundle), DeviceSpec("opencl"), replay=False)
    counts = {}
    for guidance in (1.0, 1.5):
        for steps in (1, 2):
            before = launches()
            session.draw(replace(REQUEST, steps=steps, cache_interval=1, guidance=guidance))
            counts[guidance, steps] = launches() - before
    one, two = (counts[guidance, 2] - counts[guidance, 1] for guidance in (1.0, 1.5))
    # Each step has two kernels of the sampler.
    assert two - 2 == 2 * (one - 2)
    session.close()


@pytest.mark.opencl
def test_a_profile_in_the_middle_changes_nothing(opencl_bundle):
    session = Session(open_bundle(opencl_bundle), DeviceSpec("opencl"))
    expected = session.draw(REQUEST).picture.latents.tobytes()
    profile_start()
    assert session.draw(REQUEST).picture.latents.tobytes() == expected
    kernels = {entry.kernel: entry.calls for entry in profile_stop()}
    assert kernels["next_step_kernel"] == kernels["guide_and_step_kernel"] == REQUEST.steps
    assert session.draw(REQUEST).picture.latents.tobytes() == expected
    session.close()


@pytest.mark.opencl
@pytest.mark.parametrize("mode", ["resident", "pipelined", "load-on-use"])
def test_the_same_picture_in_every_memory_mode(opencl_bundle, mode):
    bundle = open_bundle(opencl_bundle)
    before = memory_use().current_bytes - memory_use().idle_bytes
    session = Session(bundle, DeviceSpec("opencl"), MemoryChoice(mode))
    assert session.memory == mode
    expected = expected_latents(noise(11, bundle.manifest.latents.shape), 10, 3, 7.5, "opencl")
    for _ in range(2):
        done = session.draw(REQUEST)
        np.testing.assert_allclose(done.picture.latents, expected, rtol=1e-4, atol=1e-5)
    session.close()
    assert memory_use().current_bytes - memory_use().idle_bytes == before


def test_the_budget_chooses_the_mode(fake_bundle):
    bundle = open_bundle(fake_bundle)
    modes = ("resident", "pipelined", "load-on-use")
    needed = {}
    for mode in modes:
        session = Session(bundle, LLVM, MemoryChoice(mode))
        needed[mode] = session.memory_estimate
        session.close()
    assert needed["resident"] > needed["pipelined"] > needed["load-on-use"]
    for mode in modes:
        session = Session(bundle, LLVM, MemoryChoice("auto", needed[mode]))
        assert session.memory == mode
        session.close()
    with pytest.raises(UsageError, match=r"--memory-budget: \d+ bytes are not enough: loading each part"):
        Session(bundle, LLVM, MemoryChoice("auto", needed["load-on-use"] - 1))


@pytest.mark.opencl
def test_every_plan_stays_within_its_estimate():
    bundle = compiled(stand_in("tiny-sd15"), target="opencl")
    length = bundle.manifest.context.shape[1]
    request = ImageRequest([1] * length, [2] * length, 1, 6, 3, 7.5)
    pictures = set()
    for mode, replay in (("resident", True), ("pipelined", True), ("load-on-use", False)):
        session = Session(bundle, DeviceSpec("opencl"), MemoryChoice(mode), replay=replay)
        estimate = session.memory_estimate
        session.close()
        session = Session(bundle, DeviceSpec("opencl"), MemoryChoice(mode, estimate), replay=replay)
        done = session.draw(request)
        pictures.add(done.picture.latents.tobytes())
        assert done.replayed_steps == (4 if replay else 0)
        assert session.peak_bytes <= estimate
        pictures.add(session.draw(request).picture.latents.tobytes())
        assert memory_use().kinds["activations"].peak_bytes <= held_at_most(bundle.manifest, mode)
        session.close()
    assert len(pictures) == 1


def held_at_most(manifest, mode):
    """Planned activations, which recorded steps of both kinds and prompts share, and all that stays resident.

    What outlives a call is there besides: features and predictions of both prompts and kinds of steps, which
    the plan counts once, and the texts' results until the next call.
    """
    planned = {name: component.activation_bytes for name, component in manifest.components.items()}
    kept = manifest.feature_bytes + 3 * manifest.latents.bytes
    kept += manifest.context.bytes + manifest.conditions[1].bytes
    alone = max(planned["text_encoder"], planned["unet"] + kept, planned["vae_decoder"])
    assert max(planned.values()) < manifest.activation_bytes < 0.95 * sum(planned.values())
    # Each of some 60 buffers is a number of pages.
    return (manifest.activation_bytes + kept if mode == "resident" else alone) + 60 * 4096


@pytest.mark.opencl
def test_recordings_need_no_more_than_launches(opencl_bundle):
    bundle = open_bundle(opencl_bundle)
    plain = Session(bundle, DeviceSpec("opencl"), MemoryChoice("load-on-use"), replay=False)
    least = plain.memory_estimate
    plain.close()
    session = Session(bundle, DeviceSpec("opencl"), MemoryChoice("auto", least))
    assert (session.memory, session.memory_estimate) == ("load-on-use", least)
    assert session.draw(REQUEST).replayed_steps > 0
    assert session.peak_bytes <= least
    session.close()


@pytest.mark.opencl
def test_a_budget_is_enforced(opencl_bundle):
    session = Session(open_bundle(opencl_bundle), DeviceSpec("opencl"), MemoryChoice("resident", 8192))
    with pytest.raises(DeviceError, match="budget"):
        session.draw(REQUEST)
    session.close()
    assert memory_use().budget_bytes == 0


def test_latents_in_place_of_a_seed(session):
    first = session.draw(replace(REQUEST, noise=3)).picture.latents
    given = noise(3, session.manifest.latents.shape).tobytes()
    second = session.draw(replace(REQUEST, noise=given)).picture.latents
    assert first.tobytes() == second.tobytes()


def test_times_are_of_this_image_and_add_up(session):
    timings = session.draw(replace(REQUEST, steps=6)).timings
    seconds = timings["seconds"]
    assert set(seconds) == {"text", "denoise", "decode", "total"}
    assert 0 < seconds["text"] + seconds["denoise"] + seconds["decode"] <= seconds["total"]
    assert timings["seconds_full_step"] > 0
    assert timings["seconds_cached_step"] > 0
    alone = session.draw(replace(REQUEST, steps=1)).timings
    assert (alone["full_steps"], alone["cached_steps"]) == (1, 0)
    assert alone["seconds_cached_step"] is None
    assert alone["seconds"]["total"] < 1


def test_the_time_of_a_second_step_is_its_own(opencl_bundle):
    """Nothing of it, its launches included, is told as time of the first one."""
    session = Session(open_bundle(opencl_bundle), DeviceSpec("opencl"))
    request = replace(REQUEST, steps=2, cache_interval=1)
    drawn = [session.draw(request).timings for _ in range(6)]
    session.close()
    seconds = [(each["seconds"]["denoise"], each["seconds_full_step"]) for each in drawn]
    # Of the first image, it is small beside what is compiled; other work on the machine may do the same.
    assert max(second / both for both, second in seconds[1:]) > 0.1


def test_run_image_reports_every_step(fake_bundle):
    steps = []

    class Recorder(SilentProgress):
        def stage(self, name, total):
            class Stage:
                def advance(self, count=1, note=""):
                    steps.append((name, count))

                def __enter__(self):
                    return self

                def __exit__(self, *_):
                    return None

            return Stage()

    session = Session(open_bundle(fake_bundle), LLVM)
    done = run_image(session, ImageRequest(IDS, NEGATIVE, 1, 30, 5, 7.5), Recorder())
    assert done.picture.pixels.shape == (1, 64, 64, 3)
    assert done.picture.latents.shape == (1, 4, 8, 8)
    assert sum(count for name, count in steps if name == "denoise") == 30
    assert [name for name, _ in steps if name != "denoise"] == ["text", "decode"]
    session.close()


LONG = replace(REQUEST, steps=1000)


def poll_to_the_end(session):
    while session.poll(1.0).state != "done":
        pass


@pytest.mark.opencl
def test_cancel_ends_the_image_and_the_next_one_is_right(opencl_bundle):
    session = Session(open_bundle(opencl_bundle), DeviceSpec("opencl"))
    expected = session.draw(REQUEST).picture.latents.tobytes()
    session.draw(LONG, 0.0)
    with pytest.raises(UsageError, match="an image is at work; wait for it, or cancel it"):
        session.draw(REQUEST)
    while session.poll().steps_done < 2:
        pass
    session.cancel()
    with pytest.raises(CancelledError, match=r"cancelled after \d+ of 1000 steps"):
        poll_to_the_end(session)
    assert session.draw(REQUEST).picture.latents.tobytes() == expected
    session.close()


def test_preview_is_the_latents_of_a_step(session):
    """A preview after k steps is what the loop has after k steps, and taking one changes nothing."""
    first, seen = session.draw(LONG), []
    session.draw(LONG, 0.0)
    while (progress := session.poll(1.0, preview=True)).state != "done":
        if progress.preview is not None:
            seen.append(progress)
    assert progress.picture.latents.tobytes() == first.picture.latents.tobytes()
    assert seen
    table = schedule(fake.SAMPLER, 1000, LONG.cache_interval)
    assert len(table) == 1000
    for progress in seen[:2]:
        expected = latents_after(progress.preview_step)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(progress.preview, expected, rtol=1e-4, atol=1e-4 * scale)


def latents_after(count):
    """The first steps of LONG in numpy."""
    latents, reference, features = noise(11, (1, 4, 8, 8)), fake.Reference.of(IDS, NEGATIVE), {}
    for step in schedule(fake.SAMPLER, 1000, LONG.cache_interval)[:count]:
        c = step.coefficients
        if step.is_full:
            features = {side: reference.feature(latents, step.timestep, side) for side in (False, True)}
        without, with_prompt = (reference.noise(latents, features[side]) for side in (True, False))
        m = without + np.float32(LONG.guidance) * (with_prompt - without)
        latents = (c.a * (c.p * latents + c.q * m) + c.b * (c.r * latents + c.s * m)).astype("float32")
    return latents


def test_a_poll_that_waits_lets_other_threads_work(session):
    session.draw(LONG, 0.0)
    session.cancel()
    with pytest.raises(CancelledError):
        poll_to_the_end(session)
    counted = []
    slow = threading.Thread(target=lambda: session.draw(LONG))
    slow.start()
    while slow.is_alive():
        counted.append(time.monotonic())
    assert len(counted) > 100


def test_close_ends_what_is_at_work(fake_bundle):
    session = Session(open_bundle(fake_bundle), LLVM)
    session.draw(LONG, 0.0)
    session.close()
    session.close()
    with pytest.raises(UsageError, match="session: was closed"):
        session.poll()


def test_runtime_imports_nothing_of_the_compiler():
    """A phone has the runtime alone."""
    folder = Path(rpc.__file__).parent
    imported = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                imported |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
    assert "ddimcache.errors" in imported
    forbidden = (
        "ddimcache.compiler",
        "ddimcache.kernels",
        "ddimcache.schedules",
        "torch",
        "diffusers",
        "transformers",
    )
    assert [name for name in sorted(imported) if name.startswith(forbidden)] == []
