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
