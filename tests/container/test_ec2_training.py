"""Training on EC2, as near as a machine without EC2 comes: two containers of the real training image play two instances.

Each runs the real user data as root; only AWS's programs are stand-ins. `docker run` starts the image's own `train` in the same
container, as the user and with the peers' addresses that the script asked Docker for.
"""

import json
import random
import shutil
import tarfile
from pathlib import Path

import docker
import pytest

from containers.core import manifest
from containers.train.config import TrainConfig
from deploy.ec2_request import user_data
from deploy.training_request import Run
from tests.support import aws as fake
from tests.support import engine as boxes
from tests.support.instance import PROGRAMS, write_programs
from tests.support.training import photo

pytestmark = [pytest.mark.docker, pytest.mark.slow]
BUCKET = f"kennel-dev-{fake.ACCOUNT}-{fake.REGION}"
SETTINGS = TrainConfig(
    architecture="squeezenet1_1", pretrained="none", head_epochs=0, epochs=1, batch_size=8, engines="none", num_workers=0
)
TRAIN = """
for peer in $PEERS; do echo "${peer#*:} ${peer%%:*}" >>/etc/hosts; done
[ "$(stat -c %u /opt/ml/model)" = 10001 ] || exit 90
HOME=/tmp exec setpriv --reuid 10001 --regid 10001 --clear-groups train
"""
START = "export PATH=/t/bin:$PATH ADDRESS=$(hostname -i); exec bash /t/user_data"
PATIENCE_SECONDS = 280


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    data = tmp_path / "s3" / BUCKET / "data/dogs"
    for split, count in (("train", 8), ("valid", 4)):
        for label, name in enumerate(("hound", "pug")):
            (data / split / name).mkdir(parents=True)
            for number in range(count):
                photo(data / split / name / f"{number}.png", label, number)
    return tmp_path / "s3" / BUCKET


def script() -> str:
    config = fake.stage(ec2={"instance_count": 2, "instance_type": "c6i.large"})
    run = Run(
        name="r1",
        image="registry/kennel/dev/train@sha256:" + "a" * 64,
        dataset="dogs",
        channels=("train", "valid"),
        hyperparameters=SETTINGS,
        checkpoints="r1",
    )
    return user_data(config, fake.context(config).names_in(fake.ACCOUNT), run)


@pytest.mark.parametrize("last_bytes", [(9, 10), (10, 9)])
def test_two_nodes_meet_train_and_bring_one_model(engine, train_image, bucket, tmp_path, last_bytes):
    """As text .10 comes before .9, and torch orders hosts by that text: rank 0 is on the first host all the same."""
    subnet = f"10.{random.randrange(100, 200)}.{random.randrange(256)}"
    pool = docker.types.IPAMConfig(pool_configs=[docker.types.IPAMPool(subnet=f"{subnet}.0/24")])
    with boxes.network(engine, ipam=pool) as bridge:
        options = [node(tmp_path, bridge, index, f"{subnet}.{last}") for index, last in enumerate(last_bytes)]
        nodes = [boxes.container(engine, train_image, None, **each) for each in options]
        with nodes[0] as first, nodes[1] as second:
            codes = [boxes.exit_code(box, PATIENCE_SECONDS) for box in (first, second)]
            text = "\n".join(boxes.logs(box) for box in (first, second))
    text += "".join(log.read_text() for log in sorted(bucket.glob("ec2/r1/output/*/instance.log")))
    assert codes == [0, 0], text
    for host in ("algo-1", "algo-2"):
        status = json.loads((bucket / f"ec2/r1/status/{host}.json").read_text())
        assert (status["exit_code"], status["interrupted"]) == (0, "")
    with tarfile.open(bucket / "training/r1/output/model.tar.gz") as archive:
        archive.extractall(tmp_path / "model", filter="data")
    model = manifest.read(tmp_path / "model")
    manifest.verify(tmp_path / "model", model)
    assert model.class_names == ("hound", "pug")
    latest = json.loads((bucket / "checkpoints/r1/latest.json").read_text())
    assert (bucket / "checkpoints/r1" / latest["file"]).exists()
    assert '"event": "epoch"' in text


def node(root: Path, bridge, index: int, address: str) -> dict:
    """Options of the container that plays instance `index`."""
    here = root / f"node-{index}"
    write_programs(here, [name for name in PROGRAMS if name != "chown"])
    (here / "user_data").write_text(script())
    shutil.copymode(here / "bin/aws", here / "user_data")
    environment = {
        "T": "/t",
        "INDEX": str(index),
        "CONTAINER": TRAIN,
        "POLL": "0.2",
        "INTERFACE": "eth0",
        "OMP_NUM_THREADS": "1",
    }
    volumes = {str(here): {"bind": "/t", "mode": "rw"}, str(root / "s3"): {"bind": "/t/s3", "mode": "rw"}}
    return {
        "entrypoint": ["bash", "-c", START],
        "environment": environment,
        "volumes": volumes,
        "user": "0",
        "shm_size": "512m",
        "network": bridge.name,
        "networking_config": {bridge.name: docker.types.EndpointConfig("1.41", ipv4_address=address)},
    }
