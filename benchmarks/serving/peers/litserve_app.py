"""LitServe with its dynamic batching. The photo comes as a form's file, as in its image examples."""

import os

import litserve as ls
import numpy as np

from benchmarks.serving.peers.model import Model


class Classifier(ls.LitAPI):  # type: ignore[misc]
    def setup(self, device: str) -> None:
        self.classifier = Model()

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # LitServe would take an annotation for the body's type
        return self.classifier.decode(request["photo"].file.read())

    def batch(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        return inputs

    def predict(self, batch: list[np.ndarray]) -> np.ndarray:
        return self.classifier.predict(batch)

    def unbatch(self, output: np.ndarray) -> list[np.ndarray]:
        return list(output)

    def encode_response(self, output):  # type: ignore[no-untyped-def]
        return self.classifier.answer(output)


if __name__ == "__main__":
    api = Classifier(max_batch_size=8, batch_timeout=0.005, api_path="/invocations")
    server = ls.LitServer(api, accelerator="cpu", workers_per_device=int(os.environ["WORKERS"]), healthcheck_path="/ping")
    server.run(host="127.0.0.1", port=int(os.environ["PORT"]), generate_client_file=False, log_level="error")
