"""What needs an NVIDIA GPU: everything below this folder is skipped where torch cannot use one.

`python -m pytest tests/gpu` on a host with a GPU takes some minutes (`-n 8 --dist loadfile` where there are cores). Nothing
here asks for the network or for Docker.
"""

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def gpu() -> torch.device:
    """The GPU that the tests use."""
    if not torch.cuda.is_available():
        pytest.skip(f"needs a GPU: torch {torch.__version__} finds none it can use")
    return torch.device("cuda", 0)
