"""The serving image as a container: PID 1 without an init, hostile surroundings, a clean end."""

import concurrent.futures
import json
import shutil

import pytest

from tests.conformance import serving
from tests.support import engine as docker_engine

LOCKED_DOWN = {
    "user": "10001:10001",
    "read_only": True,
    "tmpfs": {"/tmp": "size=64m"},
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
    "pids_limit": 512,
    "mem_limit": "3g",
}


@pytest.fixture(scope="module")
def target(engine, serve_image, model_dir, photo):
    return serving.Serving(engine, serve_image, model_dir, photo, "image/jpeg", start_seconds=240)


_SIGNAL_HTTP = """
import contextlib, os, pathlib, signal, sys
for path in pathlib.Path("/proc").glob("[0-9]*/comm"):
    with contextlib.suppress(OSError):  # one that ends meanwhile
        if path.read_text() == "kennel-http\\n":
            os.kill(int(path.parent.name), getattr(signal, sys.argv[1]))
"""


def test_docker_stop_answers_what_was_accepted_and_exits_0(target):
    with target.started() as (box, url), concurrent.futures.ThreadPoolExecutor(1) as pool:
        target.wait(box, url)
        assert box.exec_run(["python3", "-S", "-c", _SIGNAL_HTTP, "SIGSTOP"]).exit_code == 0  # so that the port stays open
        sent = len(target.payload) // 2
        connection = serving.half_sent(url, target, sent)
        stopping = pool.submit(box.stop, timeout=100)

        def told() -> bool:
            """Sends a byte each time: one that sends nothing for ten seconds loses its turn."""
            nonlocal sent
            connection.send(target.payload[sent : sent + 1])
            sent += 1
            return serving.ask(url, "GET", "/ping").status == 503

        docker_engine.wait_until(told, 60, "503 from /ping after SIGTERM")
        assert box.exec_run(["python3", "-S", "-c", _SIGNAL_HTTP, "SIGCONT"]).exit_code == 0
        connection.send(target.payload[sent:])
        assert connection.getresponse().status == 200
        connection.close()
        stopping.result()
        box.reload()
        assert box.attrs["State"]["ExitCode"] == 0
        assert not box.attrs["State"]["OOMKilled"]


@pytest.mark.parametrize("signal", ["SIGTERM", "SIGINT"])
def test_a_stop_while_loading_is_obeyed_at_once(target, signal):
    with target.started() as (box, _):
        docker_engine.wait_for_log(box, '"listening"', 60)
        box.kill(signal)
        assert docker_engine.exit_code(box, 30) == 0


def test_it_runs_locked_down(engine, serve_image, photo, model_dir, tmp_path):
    """No privileges, a root nobody can write to, no way out to the network, the 64 MB of /dev/shm that Docker gives."""
    model = shutil.copytree(model_dir, tmp_path / "model")
    for path in [model, *model.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    target = serving.Serving(engine, serve_image, model, photo, "image/jpeg", start_seconds=240)
    with docker_engine.network(engine) as bridge, target.started(network=bridge.name, **LOCKED_DOWN) as (box, url):
        target.wait(box, url)
        answers = [json.loads(target.invoke(url).body) for _ in range(3)]
        assert all(answer["predictions"] == answers[0]["predictions"] for answer in answers)
        box.stop(timeout=30)
        box.reload()
        assert box.attrs["State"]["ExitCode"] == 0


def _processes(box):
    """[(pid, parent, state, whether torch is mapped)] of everything in the container but the program that looks."""
    script = """import json, os, pathlib
rows = []
for p in pathlib.Path("/proc").glob("[0-9]*"):
    try:
        fields = (p / "stat").read_text().rpartition(")")[2].split()
        rows.append([int(p.name), int(fields[1]), fields[0], "libtorch_cpu" in (p / "maps").read_text()])
    except OSError:
        pass
print(json.dumps([r for r in rows if r[0] != os.getpid() and r[1] != 0 or r[0] == 1]))"""
    code, output = box.exec_run(["python3", "-S", "-c", script])
    assert code == 0, output
    return json.loads(output)


def _listening(box):
    lines = [json.loads(line) for line in docker_engine.logs(box).splitlines() if line.startswith("{")]
    return next(line for line in lines if line["event"] == "listening")


def test_only_model_processes_load_torch(target):
    with target.started() as (box, url):
        target.wait(box, url)
        assert target.invoke(url).status == 200
        told, rows = _listening(box), _processes(box)
        with_torch = [pid for pid, _, _, torch in rows if torch]
        assert len(with_torch) == len(told["models"])
        assert 1 not in with_torch
        assert len(rows) >= 1 + len(told["models"]) + told["fronts"]


def test_pid_1_reaps_orphans(target):
    """`sh -c 'sleep 0 &'` in the container leaves an orphan that only PID 1 can reap."""
    with target.started() as (box, url):
        target.wait(box, url)
        for _ in range(5):
            box.exec_run(["sh", "-c", "(sleep 0.1 &) ; exit 0"])
        gone = lambda: not [row for row in _processes(box) if row[2] == "Z"]  # noqa: E731
        docker_engine.wait_until(gone, 120, "the end of every zombie")
        assert target.invoke(url).status == 200


@pytest.mark.parametrize(
    ("spoil", "code", "words"),
    [
        (lambda model: (model / "manifest.json").unlink(), 3, "not a model directory that Kennel wrote"),
        (lambda model: (model / "weights.safetensors").write_bytes(b"x"), 3, "SHA-256 differs"),
        (lambda model: (model / "weights.safetensors").unlink(), 3, "is missing"),
    ],
    ids=["no manifest", "altered", "missing"],
)
def test_a_model_that_is_not_ours_ends_it_with_one_clear_line(engine, serve_image, model_dir, tmp_path, spoil, code, words):
    model = shutil.copytree(model_dir, tmp_path / "model")
    spoil(model)
    volumes = {str(model): {"bind": "/opt/ml/model", "mode": "ro"}}
    with docker_engine.container(engine, serve_image, "serve", volumes=volumes, network_mode="none") as box:
        assert docker_engine.exit_code(box, 120) == code
        reasons = [line for line in docker_engine.logs(box).splitlines() if words in line and not line.startswith("{")]
        assert len(reasons) == 1
        assert reasons[0].startswith("kennel serve: ArtifactError: ")


def test_a_driver_that_is_too_old_is_one_line_that_names_the_remedy(engine, serve_image, model_dir, tmp_path):
    """The host shows a GPU that torch cannot use, as with a driver older than the CUDA in the image."""
    (tmp_path / "device").touch()
    volumes = {
        str(model_dir): {"bind": "/opt/ml/model", "mode": "ro"},
        str(tmp_path / "device"): {"bind": "/dev/nvidia0", "mode": "ro"},
    }
    with docker_engine.container(engine, serve_image, "serve", volumes=volumes, network_mode="none") as box:
        assert docker_engine.exit_code(box, 240) == 4
        reasons = [line for line in docker_engine.logs(box).splitlines() if not line.startswith("{")]
        assert len(reasons) == 1
        assert reasons[0].startswith("kennel serve: AcceleratorError: ")
        assert "InferenceAmiVersion" in reasons[0]


def test_without_a_folder_to_write_in_it_ends_with_one_line(engine, serve_image, model_dir):
    volumes = {str(model_dir): {"bind": "/opt/ml/model", "mode": "ro"}}
    options = {"volumes": volumes, "network_mode": "none", "read_only": True, "ipc_mode": "none"}  # which leaves out /dev/shm
    with docker_engine.container(engine, serve_image, "serve", **options) as box:
        assert docker_engine.exit_code(box, 60) == 2
        (line,) = docker_engine.logs(box).splitlines()
        assert line.startswith("kennel serve: ConfigError: cannot make a folder in memory or on disk (")
        assert "(docker: --tmpfs /tmp)" in line


@pytest.mark.parametrize(("cores", "used"), [(1.0, 1), (1.5, 2)])
def test_it_uses_the_cores_the_container_was_granted_and_no_more(target, cores, used):
    with target.started(nano_cpus=int(cores * 1e9)) as (box, _):
        docker_engine.wait_for_log(box, '"listening"', 60)
        told = _listening(box)
        assert (told["models"], told["fronts"]) == (["cpu"] * used, used)


@pytest.mark.parametrize("setting", [{"SERVE_SLOTS": "many"}, {"SERVE_PROT": "80"}])
def test_a_wrong_setting_ends_it_with_exit_code_2(engine, serve_image, model_dir, setting):
    volumes = {str(model_dir): {"bind": "/opt/ml/model", "mode": "ro"}}
    options = {"volumes": volumes, "environment": setting, "network_mode": "none"}
    with docker_engine.container(engine, serve_image, "serve", **options) as box:
        assert docker_engine.exit_code(box, 60) == 2
        assert "slots" in docker_engine.logs(box) or "did you mean port" in docker_engine.logs(box)
