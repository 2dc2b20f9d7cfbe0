"""What every peer runs: photo bytes in, class probabilities out.

MODEL_DIR: the artifact. ENGINE: eager (torch and torchvision's transforms, as users write it), the name of one of Kennel's
engines (then with Kennel's own preprocessing: the very same engine in another server), or none (preprocessing only).
"""

import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision import transforms

from containers.core import artifact, manifest, preprocessing
from containers.serve import engines


class Model:
    def __init__(self) -> None:
        directory, self.engine_name = Path(os.environ["MODEL_DIR"]), os.environ.get("ENGINE", "eager")
        self.facts = manifest.read(directory)
        spec = self.facts.preprocessing
        self.transform = transforms.Compose(
            [
                transforms.Resize(spec.resize),
                transforms.CenterCrop(spec.crop),
                transforms.ToTensor(),
                transforms.Normalize(spec.mean, spec.std),
            ]
        )
        if self.engine_name == "eager":
            self.net = artifact.load(directory).build()
        elif self.engine_name != "none":
            self.engine = engines.load(directory, self.facts, requested=self.engine_name, device="cpu", threads=1)

    def decode(self, photo: bytes) -> np.ndarray:
        if self.engine_name in ("eager", "none"):
            pixels: np.ndarray = self.transform(Image.open(io.BytesIO(photo)).convert("RGB")).numpy()
            return pixels
        spec = self.facts.preprocessing
        return preprocessing.prepare(preprocessing.decode(photo, spec), spec)

    def predict(self, photos: Sequence[np.ndarray]) -> np.ndarray:
        batch = np.stack(photos)
        if self.engine_name == "none":
            return np.full((len(batch), len(self.facts.class_names)), 1 / len(self.facts.class_names), np.float32)
        if self.engine_name == "eager":
            with torch.inference_mode():
                answer: np.ndarray = self.net(torch.from_numpy(batch)).softmax(1).numpy()
                return answer
        return self.engine(batch)

    def answer(self, probabilities: np.ndarray) -> dict[str, object]:
        best = int(probabilities.argmax())
        return {
            "class": self.facts.class_names[best],
            "probabilities": {name: float(p) for name, p in zip(self.facts.class_names, probabilities, strict=True)},
        }

    def classify(self, photo: bytes) -> dict[str, object]:
        return self.answer(self.predict([self.decode(photo)])[0])
