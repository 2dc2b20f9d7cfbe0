"""What looks for secrets in the images finds some. The examples are put together here, so that no file holds one."""

import pytest

from tests.support import layer_secrets

_KEY = "wJalrXUtnFEMI/K7MDENG/bPxRfiCY" + "EXAMPLEKEY"  # AWS's own example, in two halves
EXAMPLES = [
    ("a private key", "-----BEGIN " + "PRIVATE KEY-----\n" + "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSj\n"),
    ("a private key", "-----BEGIN OPENSSH " + "PRIVATE KEY-----\n" + "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9u\n"),
    ("an AWS access key", "aws_access_key_id = AKIA" + "IOSFODNN7EXAMPLE"),
    ("an AWS access key", "AWS_ACCESS_KEY_ID=ASIA" + "IOSFODNN7EXAMPLE\n"),
    ("an AWS secret", f"aws_secret_access_key = {_KEY}\n"),
    ("an AWS secret", f"export AWS_SECRET_ACCESS_KEY={_KEY[:-1]}/\n"),
    ("an AWS secret", f'{{"SecretAccessKey": "{_KEY}", "Expiration": ""}}'),
    ("a password in an address", "[global]\nindex-url = https://user:" + "secret@example.com/simple\n"),
]


@pytest.mark.parametrize(("what", "text"), EXAMPLES)
def test_each_is_found(what: str, text: str) -> None:
    assert layer_secrets.found(f"# before\n{text}".encode()) == [what]


def test_each_pattern_has_an_example() -> None:
    assert {what for what, _ in EXAMPLES} == set(layer_secrets.SECRETS)


@pytest.mark.parametrize(
    "text",
    [
        "-----BEGIN CERTIFICATE-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSj\n",
        "https://example.com:443/simple@1",
        "https://${USER}:${PASSWORD}@example.com",
        "aws_secret_access_key = os.environ['AWS_SECRET_ACCESS_KEY']",
        f"sha1 = {'a' * 40}",
    ],
)
def test_what_is_none_is_not(text: str) -> None:
    assert layer_secrets.found(text.encode()) == []
