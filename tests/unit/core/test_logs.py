"""containers/core/logs.py: one line per event, whatever is in it: JSON, or words on a person's terminal."""

import io
import json
import logging
import math
import os
import re
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
    os.environ.pop("KENNEL_LOG_FOR_PEOPLE", None)
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


class _Terminal(io.StringIO):
    def isatty(self):
        return True


def _in_words(event, **fields):
    logs.for_people()
    stream = _Terminal()
    logs.configure(stream=stream, rank=0)
    logs.get("x").info(event, extra=fields)
    return stream.getvalue()


def test_a_persons_terminal_gets_words():
    said = _in_words(
        "epoch", epoch=3, train_loss=0.123456, seconds=12345.6, note="a b", path="café.jpg", none=None, best={"a": 1}
    )
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d INFO    epoch  rank=0  epoch=3  train_loss=0\.1235  seconds=12346  "
        r'note="a b"  path=café\.jpg  best={"a": 1}\n',
        said,
    )


@pytest.mark.parametrize(("stream", "by_hand"), [(_Terminal(), False), (io.StringIO(), True)])
def test_it_stays_json_elsewhere(stream, by_hand):
    """On SageMaker too, whose metrics are read from it, should it give its containers a terminal."""
    if by_hand:
        logs.for_people()
    logs.configure(stream=stream)
    logs.get("x").info("epoch")
    assert _lines(stream)[0]["event"] == "epoch"


@given(st.text(), st.text())
def test_words_are_one_line_that_no_terminal_obeys(event, value):
    assert _in_words(event, value=value).removesuffix("\n").isprintable()


def test_words_keep_a_traceback_as_it_is_and_no_secret(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefgh")
    logs.for_people()
    stream = _Terminal()
    logs.configure(stream=stream)
    try:
        raise ValueError("boom \x1b[31m hf_abcdefgh")
    except ValueError:
        logs.get("x").exception("failed")
    head, *trace = stream.getvalue().splitlines()
    assert head.endswith("ERROR   failed")
    assert (trace[0], trace[-1]) == ("Traceback (most recent call last):", r"ValueError: boom \x1b[31m <HF_TOKEN>")


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
