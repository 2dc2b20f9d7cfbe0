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


class DistBackendError(RuntimeError):
    """As torch calls what NCCL raises."""


@pytest.mark.parametrize(
    ("error", "is_it"),
    [
        (MemoryError(), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"), True),
        (RuntimeError("err=Cannot allocate memory"), True),
        (DistBackendError("Call to ibv_reg_mr failed with error Cannot allocate memory"), False),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
    ],
    ids=str,
)
def test_memory_that_fewer_photos_would_leave_free(error, is_it):
    assert errors.is_out_of_memory(error) is is_it
