"""The front door for laptops and EC2: flags become the same `TrainingJob` that SageMaker's files do.

    python -m containers.train --data photos --model-dir runs/dogs                     one host, every GPU it has
    python -m containers.train --data photos --model-dir runs/dogs \\
        --hosts 10.0.1.5,10.0.1.6 --host-index 0                                       on the first of two hosts
"""

import signal

if __name__ == "__main__":  # until `FirstProcess` stands: a PID 1 loses a signal that it has no handler for
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
    from containers.core import installed

    installed.insist("python -m containers.train", "torch", "pydantic", "pythonjsonlogger")

import argparse
import os
import shlex
import socket
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from containers.core.errors import ConfigError
from containers.core.settings import parse, unknown
from containers.train import supervisor
from containers.train.config import TrainConfig
from containers.train.job import Cluster, JobPaths, TrainingJob, scratch_dir


def parser() -> argparse.ArgumentParser:
    """Where things are and who is in the job; then one flag per field of TrainConfig, with the field's docstring as help."""
    flags = argparse.ArgumentParser(
        usage="%(prog)s --data PHOTOS --model-dir MODEL [flags]",
        prog="python -m containers.train",
        allow_abbrev=False,
        description="Train a classifier.",
    )
    flags.add_argument("--data", type=Path, help="folder of photos: a folder per class, or train/valid/test of them (required)")
    flags.add_argument("--model-dir", type=Path, help="the model that serving reads is written here (required)")
    flags.add_argument("--output-dir", type=Path, help="reports (default: MODEL_DIR.run/output)")
    flags.add_argument("--checkpoint-dir", type=Path, help="what a later run resumes from (default: MODEL_DIR.run/checkpoints)")
    flags.add_argument("--job-name", default="kennel", help="names the rendezvous; the same on every host, new for every job")
    flags.add_argument("--device", default=None, help="auto, cpu or cuda (default: KENNEL_DEVICE, else auto)")
    hosts = flags.add_argument_group("several hosts", "start the same command on each of them")
    hosts.add_argument(
        "--hosts", default="", metavar="A,B", help="names or addresses of all hosts; the first of the sorted list leads"
    )
    which = hosts.add_mutually_exclusive_group()
    which.add_argument("--current-host", help="this host's name in --hosts")
    which.add_argument("--host-index", type=int, help="this host's place in --hosts as given, from 0")
    hosts.add_argument("--network-interface", help="for traffic between hosts (default: the one that leads to the first host)")
    hosts.add_argument("--rendezvous-port", type=int, default=Cluster().rendezvous_port, help="on the first host")
    hosts.add_argument("--processes-per-host", type=int, default=0, help="default: one per GPU, or one on a CPU host")
    settings = flags.add_argument_group("hyperparameters")
    for name, field in TrainConfig.model_fields.items():
        help_text = f"{field.description} (default: {field.default})".replace("%", "%%")
        if name == "pretrained":
            help_text += " Or a folder that holds such weights."
        if name == "architecture":
            help_text += f" One of {', '.join(get_args(field.annotation))}."
        bare: dict[str, Any] = {"nargs": "?", "const": "true"} if field.annotation is bool else {}
        settings.add_argument(f"--{name.replace('_', '-')}", dest=f"config.{name}", metavar="VALUE", help=help_text, **bare)
    return flags


def read_job(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> TrainingJob:
    """Raises ConfigError; argparse itself ends the process (exit code 2) where a flag has no value, or none of its kind."""
    given, problems = _read_flags(arguments)
    chosen = {
        name.removeprefix("config."): value for name, value in given.items() if name.startswith("config.") and value is not None
    }
    channels = {}
    if (folder := chosen.get("pretrained", "auto")) not in ("auto", "none"):
        channels["pretrained"] = Path(chosen.pop("pretrained")).absolute()
        if not channels["pretrained"].is_dir():
            problems.append(f"--pretrained {folder}: say auto, none, or the folder that holds the weights")
    config = parse(TrainConfig, chosen, where="the flags", also=problems)
    job = _job(given, environ, config, {"train": given["data"].absolute(), **channels})
    for folder in (job.paths.model_dir, job.paths.output_dir, job.paths.checkpoint_dir):
        if folder.resolve().is_relative_to(job.channels["train"].resolve()):
            raise ConfigError(f"{folder} lies in --data, where each folder is a class: choose a place outside {given['data']}")
    return job


def stand_in(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> TrainingJob:
    """The job's name, hosts and places, where its hyperparameters or flags cannot be used. Raises ConfigError."""
    given, _ = _read_flags(arguments)
    return _job({**given, "model_dir": given["model_dir"] or Path("model")}, environ, TrainConfig(), {})


def _read_flags(arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """What was given, and in words what is missing or unknown."""
    parsed, strange = parser().parse_known_args(arguments)
    given = vars(parsed)
    known = [f"--{name.removeprefix('config.').replace('_', '-')}" for name in given]
    flags = [each for each in strange if each.startswith("--") and each != "--"]
    problems = [unknown(each.partition("=")[0], known, what="flag", otherwise="--help lists them") for each in flags]
    words, values = [each for each in strange if not each.startswith("--")], sum("=" not in each for each in flags)
    problems += [f"{each}: belongs to no flag; these begin with --" for each in words[values:]]
    needed = {"data": "--data: name the folder of photos", "model_dir": "--model-dir: name the folder for the model"}
    return given, problems + [words for name, words in needed.items() if given[name] is None]


def _job(given: Mapping[str, Any], environ: Mapping[str, str], config: TrainConfig, channels: dict[str, Path]) -> TrainingJob:
    model_dir: Path = given["model_dir"].absolute()
    work = model_dir.with_name(f"{model_dir.name}.run")
    output_dir = (given["output_dir"] or work / "output").absolute()
    paths = JobPaths(
        model_dir=model_dir,
        output_dir=output_dir,
        checkpoint_dir=(given["checkpoint_dir"] or work / "checkpoints").absolute(),
        failure_file=output_dir / "failure",
        scratch_dir=scratch_dir(given["job_name"]),
    )
    device = given["device"] or environ.get("KENNEL_DEVICE", "auto")
    return TrainingJob(
        name=given["job_name"], config=config, cluster=_cluster(given), paths=paths, channels=channels, device=device
    )


def _cluster(given: Mapping[str, object]) -> Cluster:
    hosts = [host.strip() for host in str(given["hosts"]).split(",") if host.strip()]
    current, index = given["current_host"], given["host_index"]
    _check_interface(given["network_interface"])
    if twice := sorted({host for host in hosts if hosts.count(host) > 1}):
        raise ConfigError(f"--hosts names {', '.join(twice)} more than once: name every host once, each another one")
    if not hosts:
        hosts, current = ["localhost"], "localhost"
    elif isinstance(index, int):
        if not 0 <= index < len(hosts):
            raise ConfigError(f"--host-index {index} is not one of the {len(hosts)} hosts: count from 0")
        current = hosts[index]
    elif current is None and len(hosts) == 1:
        current = hosts[0]
    elif current not in hosts:
        raise ConfigError(f"--hosts names {', '.join(hosts)}: say which of them this is with --current-host or --host-index")
    try:
        return Cluster.model_validate(
            {
                "hosts": tuple(sorted(hosts)),
                "current_host": current,
                "network_interface": given["network_interface"],
                "rendezvous_port": given["rendezvous_port"],
                "processes_per_host": given["processes_per_host"],
            }
        )
    except ValidationError as error:
        raise ConfigError(f"the flags about hosts cannot be used: {error.errors()[0]['msg']}") from error


def _check_interface(name: object) -> None:
    """Here, because gloo only says so when the hosts have met, minutes later."""
    known = sorted(each for _, each in socket.if_nameindex())
    if name is not None and name not in known:
        raise ConfigError(f"--network-interface {name} is none of this host's: {', '.join(known)}")


def serving_advice(job: TrainingJob) -> dict[str, str]:
    """The command that serves the model, where the server and its packages are: the train image has none.

    KENNEL_SERVING_ADVICE=off leaves it out, for a program that takes the model from here and serves it itself.
    """
    if os.environ.get("KENNEL_SERVING_ADVICE") == "off" or not all(map(find_spec, ("containers.serve", "flask"))):
        return {}
    return {"serve_it": f"python -m containers.serve --model-dir {shlex.quote(str(job.paths.model_dir))}"}


def main(arguments: Sequence[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    return supervisor.run(lambda: read_job(given), lambda: stand_in(given), advice=serving_advice)


if __name__ == "__main__":
    raise SystemExit(main())
