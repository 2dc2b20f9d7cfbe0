"""`train` and `tune` say what a job may cost before it is started, and are held to the stage's ceiling like `apply`."""

import argparse
import json

import pytest

from deploy import training, tuning
from deploy.errors import Refused
from tests.support import aws as fake

IMAGE = f"{fake.ACCOUNT}.dkr.ecr.{fake.REGION}.amazonaws.com/kennel/dev/train@sha256:" + "a" * 64
PARAMETER, MACHINE_IMAGE = "/kennel-test/machine-image", "ami-12c6146b"
COMMANDS = {  # what is run → its module, its flags, and the call that would start it
    "train": (training, [], "CreateTrainingJob"),
    "train --on ec2": (training, ["--on", "ec2"], "RunInstances"),
    "tune": (tuning, ["--range", "learning_rate=1e-4:1e-2:log"], "CreateHyperParameterTuningJob"),
}


@pytest.fixture(params=COMMANDS)
def command(request):
    return COMMANDS[request.param]


def arguments(module, *flags: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return parser.parse_args(["--data", "dogs", "--image", IMAGE, "--detach", *flags])


def ready(recorder=None, ceiling: float = 5000.0, **options):
    """A stage with a dataset, a machine image and this ceiling."""
    fake.client("s3").put_object(Bucket=fake.bare_bucket(), Key="data/dogs/train/pug/a.jpg", Body=b"x")
    fake.client("ssm").put_parameter(Name=PARAMETER, Value=MACHINE_IMAGE, Type="String")
    fake.client("iam").create_instance_profile(InstanceProfileName="kennel-dev-ec2")
    config = fake.stage(ec2={"ami_parameter": PARAMETER}, stage={"price_ceiling_per_month": ceiling})
    return fake.context(config, recorder, **options)


def started(recorder) -> list[str]:
    return [call.operation for call in recorder.calls if call.writes]


def test_the_price_is_said_before_the_job_is_started(aws, command):
    module, flags, call = command
    recorder = fake.Recorder()
    context = ready(recorder)
    said = []
    context.say = lambda line: said.append((line, list(started(recorder))))
    module.run(arguments(module, *flags), context)
    before = next(writes for line, writes in said if line.startswith("costs up to $"))
    assert before == []
    assert call in started(recorder)


def test_a_job_above_the_ceiling_starts_only_with_yes_cost(aws, command):
    module, flags, call = command
    recorder = fake.Recorder()
    context = ready(recorder, ceiling=1.0)
    with pytest.raises(Refused, match="by itself, the file allows") as caught:
        module.run(arguments(module, *flags), context)
    assert "--yes-cost" in caught.value.hint
    assert started(recorder) == []
    module.run(arguments(module, *flags, "--yes-cost"), context)
    assert call in started(recorder)


def test_a_dry_run_tells_the_price_and_that_it_would_be_refused(aws, command, capsys):
    module, flags, _ = command
    recorder = fake.Recorder()
    module.run(arguments(module, *flags), ready(recorder, ceiling=1.0, dry_run=True, as_json=True))
    cost = json.loads(capsys.readouterr().out)["cost"]
    assert cost["at_most"] > 1.0
    assert "by itself" in cost["refused"]
    assert (cost["prices"]["date"], cost["allowed_per_month"]) == ("2026-11-25", 1.0)
    assert started(recorder) == []


def test_json_holds_the_price_of_what_was_started(aws, command, capsys):
    module, flags, _ = command
    module.run(arguments(module, *flags), ready(as_json=True))
    cost = json.loads(capsys.readouterr().out)["cost"]
    assert cost["refused"] is None
    assert cost["at_most"] > 0


def test_flags_of_one_run_change_its_price(aws, capsys):
    context = ready(dry_run=True, as_json=True)
    prices = []
    for flags in (["--instances", "1", "--no-spot"], ["--instances", "3", "--no-spot"]):
        training.run(arguments(training, *flags), context)
        prices.append(json.loads(capsys.readouterr().out)["cost"]["at_most"])
    assert prices[1] == pytest.approx(3 * prices[0])


def test_a_price_file_of_ones_own_counts(aws, tmp_path, capsys):
    from deploy.price_file import Prices

    own = Prices.read().model_dump() | {"sagemaker_per_hour": {"ml.g4dn.2xlarge": 10.0}}
    (tmp_path / "own.json").write_text(json.dumps(own))
    context = ready(dry_run=True, as_json=True)
    training.run(arguments(training, "--instances", "1", "--prices", str(tmp_path / "own.json")), context)
    assert json.loads(capsys.readouterr().out)["cost"]["at_most"] == pytest.approx(60.0)
