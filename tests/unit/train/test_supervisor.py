"""The steps of a job: what is said before any worker starts, in which file, with which exit code."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.unit.train import jobs
from tests.unit.train.jobs import Job, in_a_process, result


def opt_ml(root: Path, **hyperparameters: str) -> Path:
    (root / "input/config").mkdir(parents=True)
    (root / "input/config/hyperparameters.json").write_text(json.dumps(hyperparameters))
    jobs.photos(root / "input/data/train")
    return root


def test_a_wrong_hyperparameter_is_said_in_sagemakers_failure_file(tmp_path: Path) -> None:
    root = opt_ml(tmp_path / "ml", leraning_rate="1")
    with Job(tmp_path, root) as job:
        assert job.wait() == 2
    text = (root / "output/failure").read_text()
    assert text.startswith("ConfigError: ")
    assert "did you mean learning_rate?" in text
    assert "Traceback" not in job.out


@pytest.mark.parametrize("name", ["hyperparameters.json", "resourceconfig.json"])
def test_an_old_reason_does_not_survive_settings_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    root = opt_ml(tmp_path / "ml")
    (root / "input/config" / name).write_text("{")
    (root / "output").mkdir()
    (root / "output/failure").write_text("DataError: of the start before")
    with Job(tmp_path, root) as job:
        assert job.wait() == 2
    assert (root / "output/failure").read_text().startswith("ConfigError: ")


def test_photos_that_cannot_be_used_end_before_any_worker(tmp_path: Path) -> None:
    root = opt_ml(tmp_path / "ml")
    for path in (root / "input/data/train/dog").iterdir():
        path.unlink()
    with Job(tmp_path, root) as job:
        assert job.wait() == 2
    failure = (root / "output/failure").read_text()
    assert failure.startswith("DataError: dog: this class folder is empty")
    assert job.out.splitlines()[-1].startswith("DataError: dog: this class folder is empty")
    assert "Traceback" not in job.out
    (whole,) = root.rglob("failure.json")
    assert "Traceback" in json.loads(whole.read_text())["trace"]
    assert "starting workers" not in job.out


def test_the_failure_of_an_earlier_start_is_not_taken_for_this_ones(tmp_path: Path) -> None:
    data = jobs.photos(tmp_path / "photos")
    for how, code in (("data0", 2), ("work", 0)):
        with Job.with_flags(tmp_path, data, how=how) as job:
            assert job.wait() == code, job.out
        assert (job.failure is not None, (job.output / "failure.json").exists()) == (code != 0, code != 0)


def _last_line(job: Job) -> dict[str, object]:
    return json.loads([line for line in job.out.splitlines() if line.startswith("{")][-1])


def test_a_job_by_flags_ends_with_its_model_and_the_command_that_serves_it(tmp_path: Path) -> None:
    with Job.with_flags(tmp_path, jobs.photos(tmp_path / "photos")) as job:
        assert job.wait() == 0, job.out
    last, model = _last_line(job), str(tmp_path / "model")
    assert (last["event"], last["model_dir"]) == ("trained", model)
    assert last["serve_it"] == f"python -m containers.serve --model-dir {model}"


def test_a_job_of_sagemaker_ends_with_its_model_alone(tmp_path: Path) -> None:
    with Job(tmp_path, opt_ml(tmp_path / "ml")) as job:
        assert job.wait() == 0, job.out
    last = _last_line(job)
    assert (last["event"], last["model_dir"]) == ("trained", str(tmp_path / "ml/model"))
    assert "serve_it" not in last


def test_a_job_that_was_stopped_has_not_trained(tmp_path: Path) -> None:
    with Job.with_flags(tmp_path, jobs.photos(tmp_path / "photos"), how="forever") as job:
        assert job.wait_for('"working"').stop().wait() == 0, job.out
    assert '"event": "trained"' not in job.out


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with Job(tmp_path, "--data", tmp_path / "photos", "--model-dir", tmp_path / "file/model") as job:
        assert job.wait() == 2
    assert job.out.splitlines()[-1].startswith(f"ConfigError: cannot write {tmp_path}/file")


def test_a_folder_that_cannot_hold_event_files_is_named_at_the_door(tmp_path: Path) -> None:
    data = jobs.photos(tmp_path / "photos")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/tensorboard").touch()
    with Job.with_flags(tmp_path, data, "--output-dir", tmp_path / "out") as job:
        assert job.wait() == 2
    assert job.out.splitlines()[-1].startswith(f"ConfigError: cannot write {tmp_path}/out/tensorboard")


@pytest.mark.parametrize("name", ["model_dir", "output_dir", "checkpoint_dir"])
def test_a_folder_of_somebody_else_is_named_at_the_door(tmp_path: Path, name: str) -> None:
    program = """
import os, sys
from pathlib import Path
from containers.train import supervisor
from containers.train.config import TrainConfig
from containers.train.job import JobPaths, TrainingJob
root = Path(sys.argv[1])
root.chmod(0o777)
(root / sys.argv[2]).mkdir(mode=0o755)
os.setuid(10001)
paths = JobPaths(**{each: root / each for each in JobPaths.model_fields})
try:
    supervisor.prepare(TrainingJob(name="job", config=TrainConfig(), paths=paths, channels={}))
except Exception as error:
    print(f'"{type(error).__name__}: {error}"')
"""
    if os.geteuid() != 0:
        pytest.skip("only root may become somebody else")
    root = Path(tempfile.mkdtemp())  # pytest's own folders are closed to others
    try:
        assert result(in_a_process(program, root, name)).startswith(
            f"ConfigError: cannot write {root / name} (Permission denied)"
        )
    finally:
        shutil.rmtree(root)


@pytest.mark.parametrize("at", ["the door", "a step"])
def test_an_error_that_nobody_thought_of_is_told_as_any_other(tmp_path: Path, at: str) -> None:
    program = """
import json, os, sys
from pathlib import Path
os.environ["TMPDIR"] = sys.argv[1]
from containers.train import __main__ as flags, supervisor
root, at = Path(sys.argv[1]), sys.argv[2]
def broken(*_):
    raise LookupError("nobody thought of it")
if at == "a step":
    supervisor.FirstProcess.run = broken  # in a process of its own
given = ["--data", str(root / "photos"), "--model-dir", str(root / "model")]
read = broken if at == "the door" else lambda: flags.read_job(given)
print(json.dumps(supervisor.run(read, broken, failure_file=root / "model.run/output/failure")))
"""
    process = in_a_process(program, tmp_path, at)
    out, _ = process.communicate(timeout=jobs.SECONDS)
    assert json.loads(out.splitlines()[-1]) == 1
    assert (tmp_path / "model.run/output/failure").read_text().startswith("LookupError: nobody thought of it")
    traces = [line["trace"] for line in map(json.loads, out.splitlines()[:-1]) if "trace" in line]
    assert len(traces) == 1
    assert "in broken" in traces[0]


_SLOW_IMPORT = """
import sys, time
from pathlib import Path

class Slow:
    def find_spec(self, name, *_):
        if name == "psutil" and not {"containers.train", "containers.train.sagemaker"}.isdisjoint(sys.orig_argv):
            print("importing", flush=True)
            while not Path(__file__).with_name("go").exists():
                time.sleep(0.01)

sys.meta_path.insert(0, Slow())
"""


@pytest.mark.parametrize("module", ["containers.train", "containers.train.sagemaker"])
def test_a_stop_while_the_first_process_imports_waits_for_it(tmp_path: Path, module: str) -> None:
    """A PID 1 would lose it, and be killed two minutes later; any other process would die of it, and the job not be told."""
    flags = (
        ["--data", jobs.photos(tmp_path / "photos"), "--model-dir", tmp_path / "model"] if module == "containers.train" else []
    )
    environ = os.environ | {"PYTHONPATH": jobs.customized(tmp_path / "slow", _SLOW_IMPORT), "TMPDIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-m", module, *flags], stdout=subprocess.PIPE, text=True, env=environ)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGTERM)
        status = Path(f"/proc/{process.pid}/status").read_text()
        (blocked,) = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigBlk:")]
        assert blocked & 1 << signal.SIGTERM - 1
        if flags:  # the other reads /opt/ml
            (tmp_path / "slow/go").touch()
            out, _ = process.communicate(timeout=jobs.SECONDS)
            assert process.returncode == 75, out
            assert "stopped before training began" in out
    finally:
        process.kill()
        process.communicate()


def test_bin_train_hands_its_arguments_on() -> None:
    train = Path("containers/train/bin/train").absolute()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [train, "--hepochs", "3"], capture_output=True, text=True, env=os.environ | {"PATH": path}, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("ConfigError: the flags: ")
