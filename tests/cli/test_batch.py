"""``ddimcache batch``: the pictures of generate, shared among devices, resumed, and with clear refusals."""

import json

import pytest

from tests.fakes.running_server import KEY, RunningServer, RunningTracker


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("abc\n\n xyz \nabc\n")
    return path


def test_the_pictures_of_generate_on_the_devices_of_a_tracker(
    run, fake_bundle, prompts, tmp_path, monkeypatch
):
    monkeypatch.setenv("DDIMCACHE_KEY", KEY)
    tracker = RunningTracker()
    servers = [tracker.server(tmp_path / f"store{number}") for number in range(2)]
    tracker.wait_for([True, True])
    done = run("devices", "--tracker", tracker.place, "--json")
    assert [(each["device_key"], each["busy"]) for each in done.json["devices"]] == [("lab", False)] * 2
    options = ["--model", fake_bundle, "--steps", 4, "--cache-interval", 2]
    out = tmp_path / "out"
    command = ["batch", prompts, "-o", out, "--seeds", "1..3", *options]
    command += ["--tracker", tracker.place, "--device-key", "lab", "--json"]
    done = run(*command)
    assert done.code == 0, done.err
    result = done.json
    assert [(each["prompt"], each["seed"]) for each in result["pictures"]] == [
        (prompt, seed) for prompt in ("abc", "xyz") for seed in (1, 2, 3)
    ]
    assert sum(result["by_device"].values()) == 6
    names = {each["image"] for each in result["pictures"]}
    assert {path.name for path in out.iterdir()} == names | {"results.jsonl"}
    last = result["pictures"][-1]
    assert run("generate", "xyz", *options, "--seed", 3, "-o", tmp_path / "one.png").code == 0
    assert (out / last["image"]).read_bytes() == (tmp_path / "one.png").read_bytes()

    (out / last["image"]).write_bytes(b"damaged")
    again = run(*command).json
    assert (again["drawn_before"], sum(again["by_device"].values())) == (5, 1)
    assert (out / last["image"]).read_bytes() == (tmp_path / "one.png").read_bytes()
    for server in servers:
        assert server.stop()[0] == 0
    assert tracker.stop()[0] == 0


def test_another_sampler_is_another_picture(run, fake_bundle, prompts, tmp_path):
    options = ["--model", fake_bundle, "--steps", 3, "--device", "llvm"]
    command = ["batch", prompts, "-o", tmp_path / "out", *options]
    assert run(*command).code == 0
    done = run(*command, "--sampler", "lcm", "--json")
    assert done.code == 0, done.err
    assert (done.json["drawn_before"], len(done.json["pictures"])) == (0, 2)
    last = done.json["pictures"][-1]["image"]
    one = tmp_path / "one.png"
    assert run("generate", "xyz", *options, "--seed", 0, "--sampler", "lcm", "-o", one).code == 0
    assert (tmp_path / "out" / last).read_bytes() == one.read_bytes()


def test_a_server_and_this_machine(run, fake_bundle, prompts, tmp_path):
    server = RunningServer(tmp_path / "store")
    done = run(
        *("batch", prompts, "-o", tmp_path / "out", "--seeds", "1,2", "--steps", 2, "--model", fake_bundle),
        *("--device", server.address, "--device", "llvm"),
    )
    assert done.code == 0, done.err
    assert done.out.startswith(f"4 pictures in {tmp_path / 'out'} (rpc://127.0.0.1:")
    assert KEY not in done.out + done.err
    assert server.stop()[0] == 0


def test_pictures_that_fail_are_told(run, fake_bundle, prompts, tmp_path, monkeypatch):
    from ddimcache.runtime import image

    def overflow(*_):
        raise image.UsageError("no picture")

    monkeypatch.setattr(image, "run_image", overflow)
    out = tmp_path / "out"
    done = run("batch", prompts, "-o", out, "--model", fake_bundle, "--device", "llvm")
    assert done.code == 1
    assert "2 pictures could not be drawn, the first on " in done.err
    assert "no picture; run it again to try once more" in done.err
    assert [json.loads(line)["error"] for line in (out / "results.jsonl").read_text().splitlines()] == [
        "no picture"
    ] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seeds", "one"], "--seeds: 'one' is no seed"),
        (["--seeds", "3..1"], "--seeds: '3..1' is no seed"),
        (["--seeds", "0..9999999"], "--seeds: '0..9999999' is no seed"),
        (["--steps", 0], "--steps: 0 is outside"),
        (["--tracker", "here"], "--device-key: is missing"),
        (["--tracker", "here", "--device-key", "lab"], "--tracker: 'here' is not of the form host:port"),
        (["--tracker", "here:1", "--device-key", "a/b"], "--device-key: 'a/b' is no name"),
        (["--device", "rpc://here"], "no host and port"),
        (["--device", "vulkan"], "device 'vulkan' is not known"),
        (["--seconds-per-picture", 0], "--seconds-per-picture: 0 is no time"),
    ],
)
def test_wrong_usage(run, fake_bundle, prompts, tmp_path, monkeypatch, options, message):
    monkeypatch.setenv("DDIMCACHE_KEY", KEY)
    done = run("batch", prompts, "-o", tmp_path / "out", "--model", fake_bundle, *options)
    assert done.code == 2
    assert message in done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\n \n", "holds no prompt"), (b"\xff", "is not UTF-8"), (None, "cannot be read")],
)
def test_prompts_that_are_none(run, fake_bundle, tmp_path, content, message):
    path = tmp_path / "prompts.txt"
    if content is not None:
        path.write_bytes(content)
    done = run("batch", path, "-o", tmp_path / "out", "--model", fake_bundle)
    assert done.code == 2
    assert f"FILE: {path} {message}" in done.err
