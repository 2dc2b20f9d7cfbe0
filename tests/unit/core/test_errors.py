"""containers/core/errors.py and the branches that hang on it: exit codes are what issue 2 and the design promise."""

import pytest

from containers.core import errors
from containers.train import errors as train_errors


@pytest.mark.parametrize(
    ("cls", "code"),
    [
        (errors.Error, 1),
        (errors.ConfigError, 2),
        (errors.ArtifactError, 3),
        (errors.AcceleratorError, 4),
        (errors.ImageError, 2),
        (train_errors.DataError, 2),
        (train_errors.TrainingError, 1),
        (train_errors.NonFiniteLoss, 1),
        (train_errors.PeerLost, 1),
        (train_errors.Interrupted, 75),
    ],
)
def test_exit_codes(cls, code):
    error = cls("message")
    assert error.exit_code == code
    assert error.kind == cls.__name__
    assert isinstance(error, errors.Error)
