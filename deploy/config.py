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
        if self.endpoint.kind == "serverless" and (self.security.subnet_ids or self.endpoint.capture_percent):
            raise ValueError("[endpoint] kind = 'serverless' takes no [security] subnet_ids and no capture_percent")
        limit = self.endpoint.update_limit_minutes * 60 - BOOT_SECONDS
        if self.endpoint.kind in ("real-time", "multi-model") and self.rollout.waits_seconds >= limit:
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
        return self


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
