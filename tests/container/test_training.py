"""The training image as a container in hostile surroundings."""

from containers.core import manifest
from tests.support import engine as docker_engine
from tests.support.hosts import QUICK, START_SECONDS, events

_SMALL_SHM = "shared memory is small: batches go through pipes, a little slower (docker: --shm-size)"


def test_it_trains_locked_down(engine, train_image, few, tmp_path):
    """Another user, a root nobody can write to, no network, no privileges, and 64 MB of /dev/shm for 115 MB of batches."""
    hungry = QUICK | {"epochs": 1, "num_workers": 2, "batch_size": 128, "image_size": 224}
    root = docker_engine.opt_ml(tmp_path, hungry, channels=list(few))
    for path in [root, *root.rglob("*")]:
        path.chmod(0o777 if path.is_dir() else 0o644)
    options = {
        "user": "10001:10001",
        "read_only": True,
        "tmpfs": {"/tmp": "size=256m"},
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "network_mode": "none",
        "volumes": docker_engine.mounts(root, few),
        "environment": {"TRAINING_JOB_NAME": "locked-down", "OMP_NUM_THREADS": "1"},
    }
    with docker_engine.container(engine, train_image, "train", **options) as box:
        assert docker_engine.exit_code(box, START_SECONDS) == 0, docker_engine.logs(box)
        assert len(events(box, _SMALL_SHM)) == 1
        assert "Traceback" not in docker_engine.logs(box)
    written = manifest.read(root / "model")
    manifest.verify(root / "model", written)
    readable = [path.stat().st_mode & 0o004 for path in (root / "model").rglob("*") if path.is_file()]
    assert all(readable), "the server may be another user than training"
