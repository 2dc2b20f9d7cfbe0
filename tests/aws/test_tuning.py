import argparse
import json

import pytest
from botocore.validate import ParamValidator

from containers.core.errors import ConfigError
from deploy import tuning
from deploy.errors import DeployError, Refused
from tests.support import aws as fake
from tests.support import strict_parameters

IMAGE = f"{fake.ACCOUNT}.dkr.ecr.{fake.REGION}.amazonaws.com/kennel/dev/train@sha256:" + "a" * 64
SEARCH = ("--range", "learning_rate=1e-4:1e-2:log", "--range", "head_epochs=5:20", "--choice", "optimizer=adamw,sgd")


def arguments(*flags: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    tuning.add_arguments(parser)
    return parser.parse_args(["--data", "dogs", "--image", IMAGE, *flags])


def with_data(config=None, **options):
    bucket = fake.bare_bucket()
    fake.client("s3").put_object(Bucket=bucket, Key="data/dogs/train/pug/a.jpg", Body=b"x")
    return fake.context(config, **options)


def test_the_request_is_one_that_aws_takes(aws, capsys):
    context = with_data(dry_run=True, as_json=True)
    tuning.run(arguments(*SEARCH, "--set", "epochs=3", "--metric", "validation:accuracy", "--trials", "6"), context)
    sent = json.loads(capsys.readouterr().out)["create_hyper_parameter_tuning_job"]
    shape = fake.client("sagemaker").meta.service_model.operation_model("CreateHyperParameterTuningJob").input_shape
    assert not ParamValidator().validate(sent, shape).has_errors()
    assert list(strict_parameters._problems(shape, sent, "")) == []
    config, definition = sent["HyperParameterTuningJobConfig"], sent["TrainingJobDefinition"]
    assert config["HyperParameterTuningJobObjective"] == {"Type": "Maximize", "MetricName": "validation:accuracy"}
    assert config["ResourceLimits"] == {"MaxNumberOfTrainingJobs": 6, "MaxParallelTrainingJobs": 2}
    ranges = config["ParameterRanges"]
    (rate,) = ranges["ContinuousParameterRanges"]
    assert rate == {"Name": "learning_rate", "MinValue": "1e-4", "MaxValue": "1e-2", "ScalingType": "Logarithmic"}
    assert ranges["IntegerParameterRanges"][0]["Name"] == "head_epochs"
    assert ranges["CategoricalParameterRanges"] == [{"Name": "optimizer", "Values": ["adamw", "sgd"]}]
    static = definition["StaticHyperParameters"]
    assert static["epochs"] == "3"
    assert not {"learning_rate", "head_epochs", "optimizer"} & set(static)
    assert "CheckpointConfig" not in definition  # or one trial would go on from another's


def test_the_objective_is_a_metric_that_the_job_reports(aws, capsys):
    context = with_data(dry_run=True, as_json=True)
    tuning.run(arguments(*SEARCH), context)
    sent = json.loads(capsys.readouterr().out)["create_hyper_parameter_tuning_job"]
    objective = sent["HyperParameterTuningJobConfig"]["HyperParameterTuningJobObjective"]
    reported = {row["Name"] for row in sent["TrainingJobDefinition"]["AlgorithmSpecification"]["MetricDefinitions"]}
    assert objective["MetricName"] in reported


@pytest.mark.parametrize(
    ("ranges", "choices", "says"),
    [
        (["learning_rat=1:2"], [], "no hyperparameter 'learning_rat'"),
        (["learning_rate=0.1"], [], "LOW:HIGH"),
        (["learning_rate=0.1:0.01"], [], "LOW must be below HIGH"),
        (["weight_decay=0:0.1:log"], [], "above 0 with log"),
        (["head_epochs=1.5:20"], [], "'1.5' cannot be head_epochs"),
        (["learning_rate=-1:1"], [], "'-1' cannot be learning_rate"),
        ([], ["optimizer=adamw"], "two values"),
        ([], ["optimizer=adamw,adagrad"], "one of adamw, sgd"),
        (["epochs=1:2"], ["epochs=1,2"], "once"),
        ([], [], "name each"),
    ],
)
def test_a_search_that_cannot_be(ranges, choices, says):
    with pytest.raises(ConfigError, match=says):
        tuning.search_space(ranges, choices)


class Cloud:
    """A tuning job that takes these states, one a poll."""

    def __init__(self, *states: str) -> None:
        self.states, self.stopped = list(states), 0

    def describe_hyper_parameter_tuning_job(self, **_):
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        value = {"MetricName": "m", "Value": 0.42}
        best = {"TrainingJobName": "t-7", "TunedHyperParameters": {"lr": "1"}}
        best["FinalHyperParameterTuningJobObjectiveMetric"] = value
        return {"HyperParameterTuningJobStatus": state, "BestTrainingJob": best, "FailureReason": "no capacity"}

    def stop_hyper_parameter_tuning_job(self, **_):
        self.stopped += 1


def test_the_best_trial_is_reported():
    context = fake.context(session=fake.Instead(Cloud("InProgress", "Completed")))
    tuning.conclude(context, "t", tuning.watch(context, "t", "ask"), "validation:best_loss")
    assert "t-7" in context.out.text
    assert "0.42" in context.out.text


def test_a_failed_search_says_why():
    context = fake.context(session=fake.Instead(Cloud("Failed")))
    with pytest.raises(DeployError, match="no capacity"):
        tuning.conclude(context, "t", tuning.watch(context, "t", "ask"), "validation:best_loss")


@pytest.mark.parametrize(("flag", "stops", "status"), [("stop", 1, "Stopped"), ("leave", 0, "InProgress")])
def test_ctrl_c_stops_or_leaves(flag, stops, status):
    cloud = Cloud("InProgress", "Stopped")
    context = fake.context(session=fake.Instead(cloud))

    def interrupt():
        context.clock.on_sleep = lambda: None
        raise KeyboardInterrupt

    context.clock.on_sleep = interrupt
    assert tuning.watch(context, "t", flag)["HyperParameterTuningJobStatus"] == status
    assert cloud.stopped == stops


def test_a_name_that_sagemaker_would_refuse_is_refused_first(aws):
    config = fake.stage(stage={"project": "a-very-long-project"})
    with pytest.raises(Refused, match="32 characters"):
        tuning.run(arguments(*SEARCH), fake.context(config))
