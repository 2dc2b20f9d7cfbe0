"""The function's environment, as one checked object. Part of the zip of `invoke_endpoint`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Each field is the environment variable of the same name in capitals."""

    endpoint_name: str
    read_timeout_seconds: float = 20.0
    """How long one call may take. The function's own timeout must be at least 3 s longer."""
    max_attempts: int = 2
    """Calls at most, where the model has not worked on the request."""
    max_body_mb: float = 25.0
    """SageMaker's limit for a real-time request. Lambda's own is 6 MB with base64, so only S3 pointers reach it."""
    input_bucket: str = ""
    """The one bucket S3 pointers may name; empty refuses all pointers."""
    input_prefix: str = ""
    """Pointers must be below it."""
    many_models: bool = False
    """Whether the endpoint serves many models, of which every call must name one (TargetModel)."""
    target_model: str = ""
    """The model of calls that name none, such as S3 notifications; empty: they must."""
    cors_origins: tuple[str, ...] = ()
    """Pages that may read answers that came through API Gateway: origins, or `*`. A function URL has its own CORS setting."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Settings":
        """Raises ValueError naming every variable that cannot be used."""
        problems: list[str] = []
        settings = cls(
            endpoint_name=environ.get("ENDPOINT_NAME", ""),
            read_timeout_seconds=_number(environ, "READ_TIMEOUT_SECONDS", cls.read_timeout_seconds, 0.1, 60, problems),
            max_attempts=int(_number(environ, "MAX_ATTEMPTS", cls.max_attempts, 1, 5, problems)),
            max_body_mb=_number(environ, "MAX_BODY_MB", cls.max_body_mb, 0.001, 25, problems),
            input_bucket=environ.get("INPUT_BUCKET", ""),
            input_prefix=environ.get("INPUT_PREFIX", ""),
            many_models=_switch(environ, "MANY_MODELS", problems),
            target_model=environ.get("TARGET_MODEL", ""),
            cors_origins=tuple(origin.strip() for origin in environ.get("CORS_ORIGINS", "").split(",") if origin.strip()),
        )
        problems += settings._problems()
        if problems:
            raise ValueError("this function's environment cannot be used: " + "; ".join(problems))
        return settings

    def _problems(self) -> list[str]:
        found = []
        if not re.fullmatch(r"(?=.{1,63}$)[a-zA-Z0-9](-*[a-zA-Z0-9])*", self.endpoint_name):
            found.append(f"ENDPOINT_NAME must be the name of a SageMaker endpoint, not {self.endpoint_name!r}")
        if bool(self.input_bucket) != bool(self.input_prefix):
            found.append("INPUT_BUCKET and INPUT_PREFIX go together: set both, or neither to refuse S3 pointers")
        if self.input_prefix and not self.input_prefix.endswith("/"):
            found.append(f"INPUT_PREFIX must end in a slash, not {self.input_prefix!r}")
        if self.target_model and not self.many_models:
            found.append("TARGET_MODEL is for an endpoint of many models: set MANY_MODELS to true, or leave it out")
        for origin in self.cors_origins:
            if origin != "*" and not re.fullmatch(r"https?://[^/\s]+", origin):
                found.append(f"CORS_ORIGINS: {origin!r} is neither https://host nor *")
        return found


def _switch(environ: Mapping[str, str], name: str, problems: list[str]) -> bool:
    text = environ.get(name, "false").lower()
    if text not in ("true", "false"):
        problems.append(f"{name} must be true or false, not {text!r}")
    return text == "true"


def _number(environ: Mapping[str, str], name: str, default: float, low: float, high: float, problems: list[str]) -> float:
    text = environ.get(name, str(default))
    try:
        value = float(text)
    except ValueError:
        value = low - 1
    if low <= value <= high:
        return value
    problems.append(f"{name} must be a number from {low:g} to {high:g}, not {text!r}")
    return default
