"""A real multi-model server whose models' engine does what a test says."""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import psutil
import requests

from tests.support.artifacts import photo
from tests.support.scripted import Scripted
from tests.support.server import PATIENCE, Server, until

JPEG = photo(1, format="JPEG")


class Models:
    """SageMaker's calls to it."""

    def __init__(self, engine: Scripted) -> None:
        self._engine = engine
        self.play = engine.play

    @property
    def server(self) -> Server:
        return self._engine.server

    def request(self, method: str, path: str = "", **options) -> requests.Response:
        return requests.request(method, f"{self.server.url}/models{path}", timeout=PATIENCE, **options)

    def load(self, name: str, url: object) -> requests.Response:
        return self.request("POST", json={"model_name": name, "url": str(url)})

    def unload(self, name: str) -> requests.Response:
        return self.request("DELETE", f"/{name}")

    def invoke(self, name: str, body: bytes = JPEG, headers: dict[str, str] | None = None) -> requests.Response:
        return self.request("POST", f"/{name}/invoke", data=body, headers=headers)

    @property
    def names(self) -> list[str]:
        return [model["modelName"] for model in self.request("GET").json()["models"]]

    def loading(self, pool: ThreadPoolExecutor, name: str, url: object) -> Future[requests.Response]:
        """A load that goes on until the script lets it, once its model process is there."""
        before = len(self.server.processes("kennel-model"))
        self.play(may_load=False)
        future = pool.submit(self.load, name, url)
        until(lambda: len(self.server.processes("kennel-model")) > before or future.done(), "its model process loads")
        return future

    def is_emptied(self) -> bool:
        """Unloads what is loaded; a model that still loads is there the next time."""
        for name in self.names:
            self.unload(name)
        return not self.server.processes("kennel-model")

    def processes(self) -> list[psutil.Process]:
        """Every living one, of the front and of all models."""
        return psutil.Process(self.server.process.pid).children(recursive=True)

    def supervisor(self, url: Path) -> psutil.Process:
        """The first process of the model at `url`; the others are its children."""
        return min((own for own in self.processes() if str(url) in own.cmdline()), key=psutil.Process.create_time)

    def port(self) -> int:
        """Where the only model listens."""
        ports = {c.laddr.port for p in self.processes() for c in p.net_connections() if c.status == psutil.CONN_LISTEN}
        (port,) = ports - {self.server.port}
        return port
