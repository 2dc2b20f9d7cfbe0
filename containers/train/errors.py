"""Training's branch of the error tree. Exit codes are read by the launcher and by PID 1, nowhere else.

core.Error
├── DataError          the photos must be changed                              exit 2
├── TrainingError      training itself failed                                  exit 1
│   ├── NonFiniteLoss  the loss became NaN or infinite
│   ├── WorkerFailed   a rank ended without saying why (killed, out of memory)
│   └── PeerLost       another host ended first; its failure is the cause      exit 75
└── Interrupted        asked to stop, the checkpoint is committed              exit 75
    ├── Uncommitted    asked to stop, and the disk refused the last checkpoint
    └── NotBegun       asked to stop before there was anything to keep

75 (EX_TEMPFAIL) means: nothing is wrong with the job, start it again and it resumes from its last checkpoint.
"""

from containers.core.errors import Error

RESUMABLE = 75


class DataError(Error):
    exit_code = 2


class TrainingError(Error):
    exit_code = 1


class NonFiniteLoss(TrainingError):
    pass


class WorkerFailed(TrainingError):
    pass


class PeerLost(TrainingError):
    exit_code = RESUMABLE


class Interrupted(Error):
    exit_code = RESUMABLE


class Uncommitted(Interrupted):
    pass


class NotBegun(Interrupted):
    pass
