"""One JSON line per event on stdout: a constant message, numbers in fields, the context in every line.

log = logs.get(__name__)
log.info("epoch", extra={"epoch": 3, "train_loss": 0.41})
{"time": "2026-11-22T14:00:00.123Z", "level": "INFO", "event": "epoch", "logger": "…", "epoch": 3, "train_loss": 0.41}
"""

import io
import logging
import math
import os
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any, TextIO

from pythonjsonlogger.json import JsonFormatter

from containers.core import redaction


class _Lines(JsonFormatter):
    """Takes the time from the record, not from the moment of formatting, and prints no NaN (not JSON) and no secret, also not
    in a traceback.
    """

    def __init__(self, context: dict[str, Any]) -> None:
        super().__init__("%(levelname)s %(message)s %(name)s", json_ensure_ascii=False)
        self._context, self._secrets = context, redaction.secrets(os.environ)

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        return {key: self._fit(value) for key, value in log_data.items()}

    def _fit(self, value: Any) -> Any:
        """`value` with every NaN and infinity in it, which JSON cannot hold, as None, and without secrets."""
        if isinstance(value, BaseException | PurePath):
            value = str(value)
        if isinstance(value, str):
            return redaction.without(value, self._secrets)
        if isinstance(value, float):
            return value if math.isfinite(value) else None
        if isinstance(value, dict):
            return {self._fit(key): self._fit(item) for key, item in value.items()}
        return [self._fit(item) for item in value] if isinstance(value, list | tuple) else value

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        fields: dict[str, Any] = {}
        super().add_fields(fields, record, message_dict)
        moment = datetime.fromtimestamp(record.created, UTC)
        log_data["time"] = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        log_data["level"] = fields.pop("levelname")
        log_data["event"] = fields.pop("message")
        log_data["logger"] = fields.pop("name")
        log_data.update(self._context)
        log_data.update(fields)


def configure(level: str | None = None, stream: TextIO | None = None, **context: Any) -> None:
    """Send every logger of this process to `stream` (stdout) as JSON lines that all carry `context` (rank, host …).

    `level` falls back to KENNEL_LOG_LEVEL, then SageMaker's SAGEMAKER_CONTAINER_LOG_LEVEL (a number), then INFO.
    An unknown level is INFO. Calling it again replaces the handler, it never doubles lines.
    """
    wanted = level or os.environ.get("KENNEL_LOG_LEVEL") or os.environ.get("SAGEMAKER_CONTAINER_LOG_LEVEL") or "INFO"
    number = int(wanted) if wanted.isdigit() else logging.getLevelNamesMapping().get(wanted.upper(), logging.INFO)
    target = stream or sys.stdout
    if isinstance(target, io.TextIOWrapper):  # a file name need not be UTF-8; as JSON's own escape it still fits a line
        with suppress(OSError):  # it flushes, and nobody may read there any more, or the disk be full
            target.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler(target)
    handler.setFormatter(_Lines(context))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    logging.captureWarnings(True)


def get(name: str) -> logging.Logger:
    return logging.getLogger(name)
