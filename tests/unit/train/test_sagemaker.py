"""The files under /opt/ml, as SageMaker, its local mode and docker compose write them."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

from containers.core.errors import ConfigError
from containers.train import sagemaker
from containers.train.job import Cluster
from tests.unit.train.jobs import in_a_process, result

ELEVEN = [f"algo-{number}" for number in range(1, 12)]


def opt_ml(root: Path, channels: tuple[str, ...] = ("train",), **files: Any) -> Path:
    config = root / "input/config"
    config.mkdir(parents=True)
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (config / f"{name}.json").write_text(text)
    for channel in channels:
        (root / "input/data" / channel).mkdir(parents=True)
    return root


def read(root: Path, interfaces: tuple[str, ...] = ("lo", "eth0"), **environ: str) -> Any:
    return sagemaker.read_job(root, environ, interfaces)


@pytest.mark.parametrize(
    ("given", "expected", "rank"),
    [
        (None, Cluster(), 0),
        ({"current_host": "algo-1", "hosts": ["algo-1"]}, Cluster(hosts=("algo-1",), current_host="algo-1"), 0),
        (
            {"current_host": "algo-2", "hosts": ["algo-2", "algo-1"], "network_interface_name": "eth0"},
            Cluster(hosts=("algo-1", "algo-2"), current_host="algo-2", network_interface="eth0"),
            1,
        ),
        (  # local mode names an interface that its containers do not have
            {"current_host": "algo-1", "hosts": ["algo-1", "algo-2"], "network_interface_name": "ethwe"},
            Cluster(hosts=("algo-1", "algo-2"), current_host="algo-1", network_interface=None),
            0,
        ),
        (  # sorted as text: algo-10 and algo-11 come before algo-2; unknown keys are of later platforms
            {"current_host": "algo-2", "hosts": ELEVEN, "instance_groups": [{"hosts": ELEVEN}], "topology": {}},
            Cluster(hosts=tuple(sorted(ELEVEN)), current_host="algo-2"),
            3,
        ),
    ],
    ids=["missing", "one", "two", "missing interface", "eleven"],
)
def test_the_cluster(tmp_path: Path, given: dict[str, Any] | None, expected: Cluster, rank: int) -> None:
    root = opt_ml(tmp_path) if given is None else opt_ml(tmp_path, resourceconfig=given)
    cluster = read(root).cluster
    assert cluster == expected
    assert cluster.node_rank == rank
    assert cluster.rendezvous_host == sorted(expected.hosts)[0]


GROUPS = [
    {"instance_group_name": "big", "instance_type": "ml.g4dn.12xlarge", "hosts": ["algo-1"]},
    {"instance_group_name": "small", "instance_type": "ml.g4dn.xlarge", "hosts": ["algo-2", "algo-3"]},
]
MIXED = {
    "current_host": "algo-3", "current_group_name": "small", "current_instance_type": "ml.g4dn.xlarge",
    "hosts": ["algo-1", "algo-2", "algo-3"], "instance_groups": GROUPS, "network_interface_name": "eth0",
}  # fmt: skip


def test_all_hosts_of_a_heterogeneous_cluster_train(tmp_path: Path) -> None:
    root = opt_ml(tmp_path, resourceconfig=MIXED)
    cluster = read(root).cluster
    assert (cluster.hosts, cluster.node_rank, cluster.processes_per_host) == (("algo-1", "algo-2", "algo-3"), 2, 0)
    assert cluster.instance_group == "small"
    exported = sagemaker.environment(read(root), root)
    assert exported["SM_CURRENT_INSTANCE_TYPE"] == "ml.g4dn.xlarge"
    assert exported["SM_CURRENT_INSTANCE_GROUP"] == "small"
    assert json.loads(exported["SM_CURRENT_INSTANCE_GROUP_HOSTS"]) == ["algo-2", "algo-3"]
    assert json.loads(exported["SM_INSTANCE_GROUPS"]) == ["big", "small"]
    assert json.loads(exported["SM_INSTANCE_GROUPS_DICT"])["big"]["instance_type"] == "ml.g4dn.12xlarge"
    assert exported["SM_IS_HETERO"] == "true"


def test_a_channel_that_one_instance_group_lacks_is_named_with_the_group(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no train channel for instance group small: bind it to every group"):
        read(opt_ml(tmp_path, (), inputdataconfig={"test": {}}, resourceconfig=MIXED))


def test_one_instance_group_is_no_heterogeneous_cluster(tmp_path: Path) -> None:
    """What the platform writes for every job."""
    one = {"instance_group_name": "homogeneousCluster", "instance_type": "ml.g4dn.xlarge", "hosts": ["algo-1"]}
    given = {"current_host": "algo-1", "hosts": ["algo-1"], "current_group_name": "homogeneousCluster"}
    given |= {"instance_groups": [one]}
    root = opt_ml(tmp_path, resourceconfig=given)
    assert read(root).cluster == Cluster(hosts=("algo-1",), current_host="algo-1")
    exported = sagemaker.environment(read(root), root)
    assert (exported["SM_CURRENT_INSTANCE_GROUP"], exported["SM_IS_HETERO"]) == ("homogeneousCluster", "false")


def test_a_host_that_is_not_in_the_list(tmp_path: Path) -> None:
    root = opt_ml(tmp_path, resourceconfig={"current_host": "algo-3", "hosts": ["algo-1", "algo-2"]})
    with pytest.raises(ConfigError, match="this host is algo-3, which is not among its hosts algo-1, algo-2"):
        read(root)


def test_current_host_of_the_environment_wins(tmp_path: Path) -> None:
    """Under docker compose all hosts mount the same file."""
    root = opt_ml(tmp_path, resourceconfig={"current_host": "algo-1", "hosts": ["algo-1", "algo-2"]})
    assert read(root, CURRENT_HOST="algo-2").cluster.node_rank == 1


@pytest.mark.parametrize(
    "values",
    [
        {"architecture": "resnet18", "epochs": "3", "learning_rate": "0.01", "deterministic": "true"},
        {"architecture": '"resnet18"', "epochs": "3", "learning_rate": "0.01", "deterministic": "true"},
        {"architecture": '"resnet18"', "epochs": '"3"', "learning_rate": '"0.01"', "deterministic": '"true"'},
    ],
    ids=["boto3", "SDK", "quoted twice"],
)
def test_hyperparameters_of_both_encodings(tmp_path: Path, values: dict[str, str]) -> None:
    added = {"sagemaker_program": "x.py", "sagemaker_job_name": '"j"', "_tuning_objective_metric": "validation:loss"}
    config = read(opt_ml(tmp_path, hyperparameters=values | added)).config
    assert (config.architecture, config.epochs, config.learning_rate, config.deterministic) == ("resnet18", 3, 0.01, True)


def test_every_mistake_of_every_file_in_one_message(tmp_path: Path) -> None:
    root = opt_ml(
        tmp_path,
        hyperparameters={"epochs": "many", "leraning_rate": "1"},
        resourceconfig={"current_host": "algo-9", "hosts": ["algo-1"]},
        inputdataconfig={"tarin": {}},
    )
    with pytest.raises(ConfigError) as caught:
        read(root)
    message = str(caught.value)
    for words in ("epochs", "did you mean learning_rate", "algo-9", "tarin: no such channel", "hyperparameters.json"):
        assert words in message


@pytest.mark.parametrize("text", ["{", "[1]", '"x"'])
def test_files_that_are_no_json_objects(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"hyperparameters\.json"):
        read(opt_ml(tmp_path, hyperparameters=text))


def test_who_is_in_the_job_is_known_where_the_rest_cannot_be_read(tmp_path: Path) -> None:
    hosts = {"current_host": "algo-2", "hosts": ["algo-2", "algo-1"]}
    root = opt_ml(tmp_path, channels=(), hyperparameters="{", inputdataconfig="[]", resourceconfig=hosts)
    known = sagemaker.stand_in(root, {"TRAINING_JOB_NAME": "dogs"}, ("lo",))
    assert (known.name, known.cluster.hosts, known.cluster.current_host) == ("dogs", ("algo-1", "algo-2"), "algo-2")
    (root / "input/config/resourceconfig.json").write_text("{")
    with pytest.raises(ConfigError, match="resourceconfig"):
        sagemaker.stand_in(root, {}, ("lo",))


def test_channels_by_any_of_their_names(tmp_path: Path) -> None:
    described = {"training": {}, "validation": {"TrainingInputMode": "FastFile"}, "test": {}, "pretrained": {}}
    channels = read(opt_ml(tmp_path, inputdataconfig=described)).channels
    data = tmp_path / "input/data"
    assert channels == {
        "train": data / "training", "valid": data / "validation", "test": data / "test", "pretrained": data / "pretrained"
    }  # fmt: skip


def test_channels_without_a_description_are_the_folders(tmp_path: Path) -> None:
    assert set(read(opt_ml(tmp_path, ("train", "val"))).channels) == {"train", "valid"}


@pytest.mark.parametrize(
    ("described", "words"),
    [
        ({}, "no train channel"),
        ({"validation": {}}, "no train channel"),
        ({"train": {}, "data": {}}, "already come from channel train"),
        ({"train": {"TrainingInputMode": "Pipe"}}, "File or FastFile"),
    ],
)
def test_channels_that_cannot_be_used(tmp_path: Path, described: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read(opt_ml(tmp_path, (), inputdataconfig=described))


def test_sharding_is_refused_on_several_hosts_only(tmp_path: Path) -> None:
    sharded = {"train": {"S3DistributionType": "ShardedByS3Key"}}
    assert read(opt_ml(tmp_path / "one", inputdataconfig=sharded)).channels
    two = {"current_host": "a", "hosts": ["a", "b"]}
    with pytest.raises(ConfigError, match="use FullyReplicated"):
        read(opt_ml(tmp_path / "two", inputdataconfig=sharded, resourceconfig=two))


def test_paths_are_those_the_platform_collects(tmp_path: Path) -> None:
    job = read(opt_ml(tmp_path), TRAINING_JOB_NAME="dogs-7", KENNEL_DEVICE="cpu")
    assert (job.name, job.device) == ("dogs-7", "cpu")
    assert job.paths.model_dir == tmp_path / "model"
    assert job.paths.output_dir == tmp_path / "output/data"
    assert job.paths.failure_file == tmp_path / "output/failure"
    assert job.paths.tensorboard_dir == tmp_path / "output/tensorboard"
    assert job.paths.checkpoint_dir == tmp_path / "checkpoints"
    assert not job.paths.scratch_dir.is_relative_to(tmp_path / "output"), "scratch is not uploaded"


def test_the_environment_that_scripts_for_awss_launchers_read(tmp_path: Path) -> None:
    root = opt_ml(
        tmp_path,
        hyperparameters={"epochs": "3", "head-epochs": "1"},
        inputdataconfig={"train": {}},
        resourceconfig={"current_host": "algo-2", "hosts": ["algo-1", "algo-2"], "network_interface_name": "eth0"},
    )
    (root / "input/config/hyperparameters.json").write_text('{"epochs": "3"}')
    exported = sagemaker.environment(read(root), root)
    assert json.loads(exported["SM_HOSTS"]) == ["algo-1", "algo-2"]
    assert exported["SM_CURRENT_HOST"] == "algo-2"
    assert exported["SM_CHANNEL_TRAIN"] == str(tmp_path / "input/data/train")
    assert exported["SM_HP_EPOCHS"] == "3"
    assert exported["SM_MODEL_DIR"] == str(tmp_path / "model")
    assert int(exported["SM_NUM_CPUS"]) >= 1
    assert all(isinstance(value, str) for value in exported.values())


def test_channels_that_this_user_may_not_list_are_named() -> None:
    program = """
import json, os, sys
from pathlib import Path
from containers.train import sagemaker
root = Path(sys.argv[1])
root.chmod(0o755)
(root / "input").mkdir(mode=0o755)
(root / "input/data").mkdir(mode=0o700)
os.setuid(10001)
try:
    sagemaker.read_job(root, {}, ["eth0"])
except Exception as error:
    print(json.dumps(f"{type(error).__name__}: {error}"))
"""
    if os.geteuid() != 0:
        pytest.skip("only root may become somebody else")
    root = Path(tempfile.mkdtemp())  # pytest's own folders are closed to others
    try:
        assert result(in_a_process(program, root)) == (
            f"ConfigError: {root / 'input/data'}: cannot be read (Permission denied): let this user read it"
        )
    finally:
        shutil.rmtree(root)
