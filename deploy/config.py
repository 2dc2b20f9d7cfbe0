"""One stage: `deploy/environments/<stage>.toml` as one typed, frozen object. Everything wrong comes back in one message.

Each table of the file is one class of `stage_tables` or `training_tables`; `[hyperparameters]` is the training image's own
TrainConfig and `[serving]` the serving image's own ServeConfig, so a typo is found here and not after ten minutes of waiting
for a GPU.
"""

import difflib
import re
import tomllib
from pathlib import Path
from typing import Annotated, Self

from pydantic import StringConstraints, model_validator

from containers.core.errors import ConfigError
from containers.core.settings import Settings, parse
from containers.serve.config import ServeConfig
from containers.train.config import TrainConfig
from deploy.instance_types import has_gpu, has_own_disk
from deploy.stage_tables import (
    Alarms,
    Ec2Serving,
    Endpoint,
    Function,
    Rollout,
    Scaling,
    Security,
    Stage,
    Storage,
)
from deploy.training_tables import Ec2, Training

BOOT_SECONDS = 180
"""The least that SageMaker takes to start an instance; usually it takes twice as long."""
ENVIRONMENTS = Path(__file__).parent / "environments"


class StageConfig(Settings):
    """`name` is the file's."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]*$", max_length=10)]
    stage: Stage
    storage: Storage = Storage()
    security: Security = Security()
    training: Training = Training()
    hyperparameters: TrainConfig = TrainConfig()
    ec2: Ec2 = Ec2()
    ec2_serving: Ec2Serving = Ec2Serving()
    endpoint: Endpoint = Endpoint()
    serving: ServeConfig = ServeConfig()
    rollout: Rollout = Rollout()
    scaling: Scaling = Scaling()
    function: Function = Function()
    alarms: Alarms = Alarms()

    @model_validator(mode="after")
    def _together(self) -> Self:
        if any(low == 0 for low, _ in self.scaling.possible) and self.endpoint.kind != "async":
            raise ValueError("[scaling] minimum can be 0 only with [endpoint] kind = 'async'")
        if self.scaling.scheduled and self.endpoint.kind == "serverless":
            raise ValueError("[scaling] scheduled: a serverless endpoint has no instances")
        if self.endpoint.kind in ("real-time", "multi-model") and self.endpoint.instance_type.startswith("ml.t"):
            raise ValueError("[endpoint] burstable types (ml.t2, ml.t3) cannot be scaled automatically: choose another type")
        if self.endpoint.kind == "multi-model" and has_gpu(self.endpoint.instance_type):
            # Developer guide, "Custom Containers Contract for Multi-Model Endpoints"
            problem = (
                f"kind = 'multi-model' on {self.endpoint.instance_type}: on GPUs SageMaker takes NVIDIA's Triton container only"
            )
            raise ValueError(f"[endpoint] {problem}: choose a CPU type (ml.c5, ml.m5, …), or one endpoint for each model")
        if self.endpoint.kind == "serverless" and (self.security.subnet_ids or self.endpoint.capture_percent):
            raise ValueError("[endpoint] kind = 'serverless' takes no [security] subnet_ids and no capture_percent")
        limit = self.endpoint.update_limit_minutes * 60 - BOOT_SECONDS
        if self.endpoint.kind != "serverless" and self.rollout.waits_seconds >= limit:
            raise ValueError(
                f"[rollout] waits {self.rollout.waits_seconds} s in all, but after [endpoint] update_limit_minutes = "
                f"{self.endpoint.update_limit_minutes} SageMaker rolls back, and instances need {BOOT_SECONDS} s to start: "
                "every release would be"
            )
        if self.endpoint.kind == "async" and self.function.enabled:
            later = "calls InvokeEndpoint, which an asynchronous endpoint does not answer"
            remedy = "set enabled = false; callers use InvokeEndpointAsync"
            raise ValueError(f"[function] {later}: {remedy}")
        if self.security.kms_key_arn and len({has_own_disk(group.instance_type) for group in self.training.machines}) > 1:
            raise ValueError(
                "[training] instance_groups mixes types with a disk of their own, which take no volume key, and others, "
                "which need [security] kms_key_arn: choose types of one kind"
            )
        if has_gpu(self.endpoint.instance_type) and self.serving.device == "cpu":
            raise ValueError("[serving] device = 'cpu' on a GPU instance: choose a CPU type or another device")
        starts_within, loads_within = self.endpoint.startup_timeout_seconds, self.serving.load_timeout_seconds
        if self._loads_at_start and self._sets_load_timeout and loads_within >= starts_within:
            raise ValueError(
                f"[serving] load_timeout_seconds = {loads_within:g}, but after [endpoint] startup_timeout_seconds = "
                f"{starts_within} SageMaker gives the container up: raise that one, and leave this one out, which follows it"
            )
        return self

    @property
    def _loads_at_start(self) -> bool:
        """Those of a multi-model endpoint start without a model; of a serverless one SageMaker lets nobody set the time."""
        return self.endpoint.kind in ("real-time", "async")

    @property
    def _sets_load_timeout(self) -> bool:
        return "load_timeout_seconds" in self.serving.model_fields_set

    @property
    def serving_on_endpoint(self) -> ServeConfig:
        """`[serving]` as the endpoint's container gets it. Unless the file sets it, a load may take four fifths of the time
        that SageMaker gives the container to start: its log then has the reason before SageMaker's verdict, which has none.
        """
        return self._loading_within(self.endpoint.startup_timeout_seconds * 4 / 5) if self._loads_at_start else self.serving

    @property
    def serving_on_ec2(self) -> ServeConfig:
        """`[serving]` as the instance's container gets it: two fifths of `start_minutes`, in which image and model come too."""
        return self._loading_within(self.ec2_serving.start_minutes * 60 * 2 / 5)

    def _loading_within(self, seconds: float) -> ServeConfig:
        return self.serving if self._sets_load_timeout else self.serving.model_copy(update={"load_timeout_seconds": seconds})


def read(path: Path) -> StageConfig:
    """Raises ConfigError naming every table and setting of the file that cannot be used."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = ", ".join(sorted(file.stem for file in path.parent.glob("*.toml"))) or "none"
        raise ConfigError(f"stage {path.stem}: {path} does not exist; known stages are {known}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not readable as TOML: {error}") from None
    return load(path.stem, tables, where=str(path))


def load(name: str, tables: dict[str, object], *, where: str) -> StageConfig:
    """`tables` as TOML gives them. Raises ConfigError."""
    kinds = {field: info.annotation for field, info in StageConfig.model_fields.items() if field != "name"}
    problems: list[str] = [_unknown_table(table, set(kinds)) for table in tables if table not in kinds]
    parts: dict[str, Settings] = {}
    for table, kind in kinds.items():
        values = tables.get(table, {})
        if not isinstance(values, dict):
            problems.append(f"[{table}]: a table is expected, not {values!r}")
            continue
        if not (isinstance(kind, type) and issubclass(kind, Settings)):
            raise TypeError(table)
        try:
            parts[table] = parse(kind, values, where="")
        except ConfigError as error:
            problems += [f"[{table}] {line.removeprefix('  - ')}" for line in str(error).splitlines()[1:]]
    if not problems:
        try:
            return parse(StageConfig, {"name": name, **parts}, where="")
        except ConfigError as error:
            problems = [re.sub(r" \(got .*\)$", "", line.removeprefix("  - ")) for line in str(error).splitlines()[1:]]
    lines = "\n".join(f"  - {problem}" for problem in problems)
    raise ConfigError(f"{where}: {len(problems)} setting{'s' * (len(problems) > 1)} cannot be used\n{lines}")


def _unknown_table(table: str, known: set[str]) -> str:
    near = difflib.get_close_matches(table, known, n=1)
    return f"[{table}]: no such table" + (f"; did you mean [{near[0]}]?" if near else f"; known are {', '.join(sorted(known))}")
