"""containers/core/settings.py: strings from outside, all mistakes in one message."""

import contextlib
import json
from typing import Annotated, Literal, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError, model_validator

from containers.core.errors import ConfigError
from containers.core.settings import Settings, parse


class Knobs(Settings):
    name: str = "adam"
    epochs: Annotated[int, Field(ge=0)] = 3
    rate: Annotated[float, Field(gt=0)] = 0.1
    fast: bool = False
    kind: Literal["a", "b"] = "a"
    layers: tuple[int, ...] = ()
    limit: int | None = None

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.fast and self.epochs == 0:
            raise ValueError("fast needs epochs")
        return self


def test_defaults_where_nothing_is_given():
    assert parse(Knobs, {}, where="flags") == Knobs()


@pytest.mark.parametrize(
    ("field", "plain", "value"),
    [
        ("name", "res net", "res net"),
        ("name", "007", "007"),
        ("epochs", "12", 12),
        ("rate", "1e-3", 1e-3),
        ("fast", "true", True),
        ("fast", "True", True),
        ("kind", "b", "b"),
        ("layers", "[1, 2]", (1, 2)),
        ("limit", "null", None),
        ("limit", "4", 4),
    ],
)
def test_a_plain_string_and_a_json_encoded_one_mean_the_same(field, plain, value):
    assert getattr(parse(Knobs, {field: plain}, where="hyperparameters.json"), field) == value
    assert getattr(parse(Knobs, {field: json.dumps(value)}, where="hyperparameters.json"), field) == value


@given(st.text().filter(lambda text: text[:1] not in ('"', "[", "{") and text != "null"))
def test_any_text_survives_both_encodings(text):
    assert parse(Knobs, {"name": text}, where="x").name == text
    assert parse(Knobs, {"name": json.dumps(text)}, where="x").name == text


@given(st.dictionaries(st.sampled_from([*Knobs.model_fields, "epoch", "x y"]), st.text(max_size=20)))
def test_whatever_arrives_the_answer_is_settings_or_a_config_error(raw):
    with contextlib.suppress(ConfigError):
        assert isinstance(parse(Knobs, raw, where="env"), Knobs)


@pytest.mark.parametrize("text", ["[", '"half', "{not json", "[" * 5000], ids=["list", "quote", "brace", "deep"])
def test_text_that_only_looks_like_json_stays_text(text):
    assert parse(Knobs, {"name": text}, where="x").name == text


def test_every_problem_is_in_one_message_with_value_and_nearest_name():
    with pytest.raises(ConfigError) as caught:
        parse(Knobs, {"epoch": "1", "epochs": "-1", "rate": "fast", "kind": "c", "zzzz": "1"}, where="hyperparameters.json")
    message = str(caught.value)
    assert message.startswith("hyperparameters.json: 5 settings cannot be used\n")
    assert "epoch: no such setting; did you mean epochs?" in message
    assert "zzzz: no such setting; known are epochs, fast, kind," in message
    assert "epochs: Input should be greater than or equal to 0 (got '-1')" in message
    assert "(got 'fast')" in message
    assert "'a' or 'b' (got 'c')" in message
    assert caught.value.exit_code == 2


def test_one_problem_is_singular():
    with pytest.raises(ConfigError, match=r"^flags: 1 setting cannot be used\n  - epochs: .*\(got '1.5'\)$"):
        parse(Knobs, {"epochs": "1.5"}, where="flags")


def test_a_rule_over_several_fields_is_reported_without_a_field_name():
    with pytest.raises(ConfigError, match=r"\n  - fast needs epochs$"):
        parse(Knobs, {"epochs": "0", "fast": "true"}, where="flags")


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "NaN"])
def test_numbers_are_finite(text):
    with pytest.raises(ConfigError, match="rate: "):
        parse(Knobs, {"rate": text}, where="flags")


def test_settings_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        Knobs().epochs = 4
