"""containers/core/logs.py: one JSON line per event, whatever is in it."""

import io
import json
import logging
import math
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containers.core import logs


@pytest.fixture(autouse=True)
def _restore_root_logger():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def _lines(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_has_time_level_event_logger_context_and_fields_in_that_order():
    stream = io.StringIO()
    logs.configure(stream=stream, rank=3, host="algo-1")
    logs.get("kennel.test").info("epoch", extra={"epoch": 2, "train_loss": 0.5})
    (line,) = _lines(stream)
    assert list(line) == ["time", "level", "event", "logger", "rank", "host", "epoch", "train_loss"]
    assert line | {"time": ""} == {
        "time": "", "level": "INFO", "event": "epoch", "logger": "kennel.test", "rank": 3, "host": "algo-1",
        "epoch": 2, "train_loss": 0.5,
    }  # fmt: skip


def test_the_time_is_the_records_own():
    stream = io.StringIO()
    logs.configure(stream=stream)
    record = logging.LogRecord("x", logging.INFO, __file__, 1, "late", None, None)
    record.created = 0.25
    logging.getLogger().handle(record)
    assert _lines(stream)[0]["time"] == "1970-01-01T00:00:00.250Z"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, [1.0, math.nan], {"a": {"b": math.inf}}, (math.nan,)])
def test_a_number_that_is_no_json_becomes_null(value):
    stream = io.StringIO()
    logs.configure(stream=stream)
    logs.get("x").info("event", extra={"value": value})

    def refuse(constant):
        raise AssertionError(constant)

    assert "null" in stream.getvalue()
    json.loads(stream.getvalue(), parse_constant=refuse)


@given(st.text(), st.dictionaries(st.from_regex(r"\A[a-z]{1,8}_x\Z"), st.text() | st.floats() | st.none() | st.integers()))
def test_any_event_is_one_line_of_json(message, fields):
    stream = io.StringIO()
    logs.configure(stream=stream)
    logs.get("x").info("%s", message, extra=fields)
    (line,) = stream.getvalue().removesuffix("\n").split("\n")
    assert json.loads(line)["event"] == message


def test_a_file_name_that_is_no_utf8_is_logged_not_lost(capfd):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="utf-8", write_through=True)
    logs.configure(stream=stream)
    logs.get("x").info("skipped", extra={"path": "caf\udce9.jpg", "name_of_class": "Käfer"})
    text = raw.getvalue().decode()
    assert json.loads(text)["path"] == "caf\udce9.jpg"
    assert "Käfer" in text  # and other letters stay readable
    assert "Logging error" not in capfd.readouterr().err


def test_an_exception_is_in_the_line():
    stream = io.StringIO()
    logs.configure(stream=stream)
    try:
        raise ValueError("boom")
    except ValueError:
        logs.get("x").exception("failed")
    (line,) = _lines(stream)
    assert "ValueError: boom" in line["exc_info"]


def test_no_line_repeats_a_secret_wherever_it_is(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefgh")
    stream = io.StringIO()
    logs.configure(stream=stream, home="hf_abcdefgh")
    try:
        raise ValueError("401 for http://me:s3cret@host with hf_abcdefgh")
    except ValueError as error:
        logs.get("x").exception(
            "failed with %s", "hf_abcdefgh", extra={"reason": str(error), "tried": [{"with": "hf_abcdefgh"}]}
        )
    assert "hf_abcdefgh" not in stream.getvalue()
    assert "s3cret" not in stream.getvalue()
    (line,) = _lines(stream)
    assert line["reason"] == "401 for http://me:<password>@host with <HF_TOKEN>"
    assert "ValueError: 401 for http://me:<password>@host" in line["exc_info"]


def test_python_warnings_become_lines():
    stream = io.StringIO()
    logs.configure(stream=stream)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old way", DeprecationWarning, stacklevel=1)
    assert "old way" in _lines(stream)[0]["event"]


def test_configuring_twice_does_not_double_lines():
    first, second = io.StringIO(), io.StringIO()
    logs.configure(stream=first)
    logs.configure(stream=second, rank=1)
    logs.get("x").info("once")
    assert first.getvalue() == ""
    assert [line["rank"] for line in _lines(second)] == [1]


@pytest.mark.parametrize(
    ("environ", "argument", "level"),
    [
        ({}, None, logging.INFO),
        ({"KENNEL_LOG_LEVEL": "debug"}, None, logging.DEBUG),
        ({"SAGEMAKER_CONTAINER_LOG_LEVEL": "40"}, None, logging.ERROR),
        ({"KENNEL_LOG_LEVEL": "WARNING", "SAGEMAKER_CONTAINER_LOG_LEVEL": "10"}, None, logging.WARNING),
        ({"KENNEL_LOG_LEVEL": "WARNING"}, "ERROR", logging.ERROR),
        ({"KENNEL_LOG_LEVEL": "chatty"}, None, logging.INFO),
    ],
)
def test_where_the_level_comes_from(monkeypatch, environ, argument, level):
    monkeypatch.delenv("KENNEL_LOG_LEVEL", raising=False)
    monkeypatch.delenv("SAGEMAKER_CONTAINER_LOG_LEVEL", raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    logs.configure(argument, stream=io.StringIO())
    assert logging.getLogger().level == level
