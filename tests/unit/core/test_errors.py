"""containers/core/errors.py: exit codes are what the design promises."""

import pytest

from containers.core import errors


@pytest.mark.parametrize(
    ("cls", "code"),
    [
        (errors.Error, 1),
        (errors.ConfigError, 2),
        (errors.ArtifactError, 3),
        (errors.AcceleratorError, 4),
        (errors.ImageError, 2),
    ],
)
def test_exit_codes(cls, code):
    error = cls("message")
    assert error.exit_code == code
    assert error.kind == cls.__name__
    assert isinstance(error, errors.Error)
