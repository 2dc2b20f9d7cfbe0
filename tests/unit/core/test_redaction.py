"""containers/core/redaction.py: what is cut out, and what is not."""

import pytest

from containers.core import redaction


def test_the_values_of_variables_that_are_named_like_secrets_are_cut_out():
    environ = {"AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI", "HF_TOKEN": "hf_abcdefgh", "MY_TOKEN": "x", "HOME": "/home/someone"}
    text = redaction.without("denied for wJalrXUtnFEMI and hf_abcdefgh in /home/someone x", redaction.secrets(environ))
    assert text == "denied for <AWS_SECRET_ACCESS_KEY> and <HF_TOKEN> in /home/someone x"


def test_a_secret_that_begins_with_another_is_cut_out_whole():
    found = redaction.secrets({"A_TOKEN": "abcdefgh", "B_TOKEN": "abcdefghijkl"})
    assert redaction.without("abcdefghijkl", found) == "<B_TOKEN>"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ProxyError: http://me:s3cr:et@proxy:3128/ refused", "ProxyError: http://me:<password>@proxy:3128/ refused"),
        ("s3fs://:s3cr@t@host", "s3fs://:<password>@host"),
        ('{"a": "http://me:s3cret@a/", "b": "you@b"}', '{"a": "http://me:<password>@a/", "b": "you@b"}'),
        ("http://127.0.0.1:8080/ping, a@b", "http://127.0.0.1:8080/ping, a@b"),
        ("https://me@host/x:y@z", "https://me@host/x:y@z"),
        ("to a@b: c", "to a@b: c"),
    ],
)
def test_a_password_in_a_url_is_cut_out_and_nothing_else(text, expected):
    assert redaction.without(text, {}) == expected
