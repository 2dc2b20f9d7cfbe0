"""make demo: from a folder of photos to a served model, in containers where there is a Docker engine, else without.

    python3 -m scripts.demo [--data FOLDER] [--port 8080]
    python3 -m scripts.demo --stop

Standard library only: it runs before anything is installed.
"""

import argparse
import json
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from scripts.images import NoBase
from scripts.machine import ROOT, NoDocker, Stop, check_port, find_docker, refused, say
from scripts.runners import Containers, Processes, Runner

EXAMPLE = ROOT / "examples" / "photos"
RUN = ROOT / "runs" / "demo"
NEXT = RUN / "next"
TRAINING_FLAGS = ("--architecture", "efficientnet_lite0", "--head-epochs", "15", "--epochs", "0", "--engines", "none")
READY_SECONDS = 180.0
NEEDED = 3
"""Photos of a class, for one in each split that training makes."""


def main(arguments: Sequence[str]) -> int:
    flags = argparse.ArgumentParser(
        prog="make demo", description="Train on a folder of photos, serve the model, classify a photo."
    )
    flags.add_argument("--data", type=Path, default=EXAMPLE, help="a folder per class, or train/valid/test of them")
    flags.add_argument("--port", type=int, default=8080)
    flags.add_argument("--stop", action="store_true", help="end the server that an earlier demo left")
    given = flags.parse_args(arguments)
    try:
        if given.stop:
            stop()
        else:
            demo(given.data.expanduser().absolute(), given.port)
    except Stop as problem:
        print(f"\nmake demo: {problem}", file=sys.stderr)
        return 1
    except OSError as problem:
        print(f"\nmake demo: {refused(problem, RUN)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nmake demo: stopped", file=sys.stderr)
        return 130
    return 0


def demo(data: Path, port: int) -> None:
    """What an earlier demo trained and serves stays untouched until the new model is complete."""
    started = time.monotonic()
    check_data(data)
    check_port_of(port)
    shutil.rmtree(NEXT, ignore_errors=True)
    NEXT.mkdir(parents=True)
    runner = prepared_runner()
    say(f"Training on {data}")
    runner.train(data, NEXT, TRAINING_FLAGS)
    if not (NEXT / "model" / "report").is_dir():  # a container hears Ctrl-C alone, and ends well with a half-trained model
        raise Stop("training was stopped before its end; what an earlier demo trained and serves is as it was")
    check_port_of(port)
    stop_earlier()
    keep(NEXT, RUN)
    say("Starting the server")
    runner.serve(RUN / "model", port)
    url = f"http://127.0.0.1:{port}"
    wait_until_ready(url, runner)
    report(url, time.monotonic() - started)


def check_data(data: Path) -> None:
    """Before minutes of set-up, what can be seen at a glance; training looks at every photo. Raises Stop."""
    expected = "DATA names a folder that holds a folder of photos for each class"
    if not data.is_dir():
        raise Stop(f"{data} is not a folder: {expected}")
    folders = [entry for entry in data.iterdir() if entry.is_dir() and not entry.name.startswith((".", "__MACOSX"))]
    if not folders:
        raise Stop(f"{data} holds no folder: {expected}")
    if not any(folder.name.lower().startswith("train") for folder in folders):  # else they may be splits, which training reads
        check_classes(sorted(folders))


def check_classes(folders: Sequence[Path]) -> None:
    """Raises Stop where a class has no photo to choose the model with, or none of them one to show at the end."""
    found = {folder: _count(folder, NEEDED) for folder in folders}
    few = [folder for folder in folders if found[folder] < NEEDED - 1] or (
        list(folders) if max(found.values()) < NEEDED else []
    )
    if few:
        raise Stop(
            f"{few[0].parent} holds too few photos ({_listed({folder.name: found[folder] for folder in few})}): put at least "
            f"{NEEDED} different ones into the folder of each class, to train on, to choose the model with and to test it, or "
            "remove the folder"
        )


def _count(folder: Path, most: int) -> int:
    """Files in it, at whatever depth; `most` where there are more."""
    files = (entry for entry in folder.rglob("*") if entry.is_file() and not entry.name.startswith("."))
    return sum(1 for _ in islice(files, most))


def _listed(photos: Mapping[str, int]) -> str:
    """Classes with the number of their photos, the first five."""
    named = [f"{name} {count}" for name, count in photos.items()]
    return ", ".join(named[:5]) + (", …" if named[5:] else "")


def check_port_of(port: int) -> None:
    """Raises Stop when the port is none, or another program's than a server that an earlier demo left."""
    if port not in [runner.port() for runner in earlier_runners()]:
        check_port(port)


def keep(new: Path, old: Path) -> None:
    """Put the run in `new` in the place of the one in `old`. The folder of the model itself stays: Compose mounts it."""
    model = old / "model"
    model.mkdir(parents=True, exist_ok=True)
    for entry in [entry for entry in model.iterdir() if entry.name != ".gitignore"]:
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    for entry in sorted((new / "model").iterdir(), key=lambda entry: entry.name == "manifest.json"):  # last: then all is there
        entry.rename(model / entry.name)
    shutil.rmtree(old / "model.run", ignore_errors=True)
    (new / "model.run").rename(old / "model.run")
    shutil.rmtree(new)


def prepared_runner() -> Runner:
    """Containers with their images built, else processes with their packages installed; says which and why."""
    try:
        runner: Runner = Containers(find_docker())
        say("A Docker engine answers: everything runs in containers, nothing is installed on this machine")
        runner.prepare()
    except (NoDocker, NoBase) as why:
        say(f"No containers, as {why}: the same programs run as processes of this machine")
        runner = Processes()
        runner.prepare()
    return runner


def earlier_runners() -> list[Runner]:
    """Both ways in which an earlier demo may have left its server."""
    try:
        return [Processes(), Containers(find_docker())]
    except NoDocker:
        return [Processes()]


def stop_earlier() -> bool:
    """End what an earlier demo left serving; True when there was something."""
    stopped = [runner.stop() for runner in earlier_runners()]
    return any(stopped)


def stop() -> None:
    print("The demo's server has ended." if stop_earlier() else "No server of the demo was running.")


def wait_until_ready(url: str, runner: Runner) -> None:
    """Until /ping answers 200. Raises Stop when the server ends or takes too long."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/ping", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            runner.check_alive()
            time.sleep(0.3)
    raise Stop(f"the server did not become ready within {READY_SECONDS:.0f} s: its log is {runner.log}")


def report(url: str, seconds: float) -> None:
    """Classify one photo and print what a newcomer wants to see."""
    photo = unseen_photo(url)
    answer = classify(url, photo)
    metrics = json.loads((RUN / "model" / "manifest.json").read_text())["metrics"]
    say(f"Answer for {shown(photo)}, a photo it has not seen")
    for entry in answer["top"]:
        print(f"    {entry['class']:<24} {entry['probability']:7.4f}  {'█' * round(30 * entry['probability'])}")
    if "test_accuracy" in metrics:
        print(f"\nAccuracy on all test photos: {metrics['test_accuracy']:.3f}")
    print(
        f"\nServing at {url}  (done in {seconds:.0f} s; the model is in {shown(RUN / 'model')})\n"
        f"  a page to try:   {url}/\n"
        f"  the report:      {shown(RUN / 'model' / 'report' / 'index.html')}\n"
        f"  your own photo:  curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg' {url}/invocations\n"
        f"  end the server:  make stop"
    )


def unseen_photo(url: str) -> Path:
    """A test photo of the run that has just ended. Raises Stop where it had none."""
    found = json.loads((RUN / "model.run" / "output" / "data_report.json").read_text())
    if found["example"] is None:
        counts = {name: sum(splits.values()) for name, splits in found["classes"].items()}
        raise Stop(
            f"no photo could be kept for a test ({_listed(counts)}): add other photos to train on, or a folder test/ beside "
            f"train/, and try again. The server is running all the same, at {url}; make stop ends it"
        )
    return Path(found["example"])


def classify(url: str, photo: Path) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{url}/invocations", data=photo.read_bytes(), headers={"Content-Type": "application/x-image"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            answer: dict[str, Any] = json.load(response)["predictions"][0]
            return answer
    except urllib.error.HTTPError as error:
        raise Stop(f"the server answered {error.code}: {error.read().decode(errors='replace')}") from error
    except OSError as error:
        raise Stop(f"the server did not answer ({error}): make stop ends it") from error


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
