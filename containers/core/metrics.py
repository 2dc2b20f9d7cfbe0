"""The names of training's numbers, and the regular expressions that find them in a log.

Training writes one JSON line per epoch with `event == EPOCH_EVENT` whose fields are `Metric.field`; `deploy` hands
`sagemaker_definitions()` to SageMaker, which searches stdout and stderr with them. A contract test feeds one to the other.
SageMaker's limits: at most 40 definitions, names up to 255 characters, patterns up to 500, the first group is the number
(API reference, MetricDefinition).
"""

from dataclasses import dataclass

EPOCH_EVENT = "epoch"
FINAL_EVENT = "result"

_NUMBER = r"([-+]?[0-9]+\.?[0-9]*(?:[eE][-+]?[0-9]+)?)"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """`name` is what SageMaker and the tuner call it, `field` the key of the JSON line."""

    name: str
    field: str
    goal: str | None = None  # "Minimize" | "Maximize" where a tuner may use it
    meaning: str

    @property
    def regex(self) -> str:
        """Matches the quoted key, so that `valid_loss` is not found inside `best_valid_loss`."""
        return f'"{self.field}": {_NUMBER}'


METRICS: tuple[Metric, ...] = (
    Metric(name="train:loss", field="train_loss", meaning="mean training loss of the epoch"),
    Metric(name="train:accuracy", field="train_accuracy", meaning="share of training photos classified rightly"),
    Metric(name="validation:loss", field="valid_loss", goal="Minimize", meaning="exact mean over the validation photos"),
    Metric(name="validation:accuracy", field="valid_accuracy", goal="Maximize", meaning="exact top-1 accuracy"),
    Metric(name="validation:top5_accuracy", field="valid_top5_accuracy", goal="Maximize", meaning="exact top-5 accuracy"),
    Metric(name="validation:best_loss", field="best_valid_loss", goal="Minimize", meaning="lowest validation loss so far"),
    Metric(name="validation:best_accuracy", field="best_valid_accuracy", goal="Maximize", meaning="accuracy at that epoch"),
    Metric(name="test:loss", field="test_loss", meaning="exact mean over the test photos, best weights"),
    Metric(name="test:accuracy", field="test_accuracy", meaning="exact top-1 accuracy, best weights"),
    Metric(name="train:learning_rate", field="learning_rate", meaning="of the head, at the end of the epoch"),
    Metric(name="train:images_per_second", field="images_per_second", meaning="over all ranks, training part only"),
    Metric(name="train:comm_wait_fraction", field="comm_wait_fraction", meaning="share of step time spent waiting for peers"),
    Metric(name="train:data_wait_fraction", field="data_wait_fraction", meaning="share of step time spent waiting for photos"),
)


def sagemaker_definitions() -> list[dict[str, str]]:
    """`AlgorithmSpecification.MetricDefinitions` of CreateTrainingJob."""
    return [{"Name": metric.name, "Regex": metric.regex} for metric in METRICS]
