"""The root of Kennel's error tree: the class says who must act, and carries the process exit code.

    Error
    ├── ConfigError       whoever set it must change it                      exit 2
    ├── ArtifactError     the model directory is not what training writes    exit 3
    ├── AcceleratorError  driver, architecture or memory                     exit 4
    └── ImageError        these bytes are not a usable photo                 exit 2

`train`, `serve` and `deploy` add their own branches in their `errors.py`.
"""


class Error(Exception):
    """Anything Kennel reports by design. `exit_code` is read in one place: each program's entry point."""

    exit_code: int = 1

    @property
    def kind(self) -> str:
        """The name a user reads and a program matches on."""
        return type(self).__name__


class ConfigError(Error):
    exit_code = 2


class ArtifactError(Error):
    exit_code = 3


class AcceleratorError(Error):
    exit_code = 4


class ImageError(Error):
    exit_code = 2


class ImageTooLarge(ImageError):
    """More pixels than the reader allows."""


_NO_MEMORY = (
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "unable to find an engine to execute this computation",
    "DefaultCPUAllocator: can't allocate memory",
    "std::bad_alloc",
    "Cannot allocate memory",
)
"""As the driver, CUDA's libraries and torch on a CPU say it, and OpenVINO with the words of C++ and of the system (ENOMEM).
torch raises RuntimeError then, or AcceleratorError; OpenVINO RuntimeError. cuDNN has other names for it since its version 9
(cudnn_graph.h). torch says that it found no engine for a convolution where none had memory left to work in: it passes over
each that runs out (ATen/native/cudnn/Conv_v8.cpp)."""


def is_out_of_memory(error: BaseException) -> bool:
    """Also without torch in the process: its error is recognised by name, the others by what they say.

    The driver's own "out of memory" leaves the context whole (CUDA Runtime API, cudaErrorMemoryAllocation).
    """
    kind = type(error).__name__
    if kind == "DistBackendError":  # what NCCL lacks is other memory (locked, shared), which fewer photos do not give back
        return False
    return isinstance(error, MemoryError) or kind == "OutOfMemoryError" or any(words in str(error) for words in _NO_MEMORY)
