"""BentoML: a service class, the photo as a form's file."""

import os
from pathlib import Path

import bentoml

from benchmarks.serving.peers.model import Model


@bentoml.service(workers=int(os.environ["WORKERS"]), traffic={"timeout": 120})
class Service:
    def __init__(self) -> None:
        self.classifier = Model()

    @bentoml.api(route="/invocations")  # type: ignore[untyped-decorator]
    def classify(self, photo: Path) -> dict[str, object]:
        return self.classifier.classify(photo.read_bytes())
