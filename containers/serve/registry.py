"""The models of a multi-model server: each a process of its own, started, watched, asked and ended here.

A model's server has one front and one model process, and listens on a loopback port that SageMaker leaves to the container.
"""

import errno
import http.client
import io
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from containers.core import host, logs
from containers.core.errors import ArtifactError, Error
from containers.serve import child
from containers.serve.config import ServeConfig
from containers.serve.errors import AlreadyLoaded, BadRequest, ModelFailed, NotFound, NotReady, OutOfMemory
from containers.serve.model_process import EXIT_NO_MEMORY

log = logs.get(__name__)

_LAST_SECONDS = 5.0  # beyond its own graceful timeout: the moment its pings fail first, and what it takes to end
_MEMORY_PER_WEIGHTS = 3  # the file in the page cache, the weights, and room to compute
_RUNTIME_BYTES = 300_000_000  # torch or OpenVINO with their libraries


@dataclass
class Model:
    """A model's server. `number`: of its load, each higher than those before. `leaving`: it was told to stop. `needs`: bytes
    of memory. `metrics`: where its processes count."""

    name: str
    url: str
    port: int
    server: subprocess.Popen[bytes]
    number: int = 0
    gpu: str | None = None
    metrics: Path | None = None
    needs: int = 0
    last_words: str = ""
    ready: bool = False
    leaving: bool = False

    def __post_init__(self) -> None:
        self._ears = threading.Thread(target=self._listen, daemon=True)
        self._ears.start()

    def _listen(self) -> None:
        """Pass the server's stderr on, and keep its last line: the reason when it gives up."""
        with self.server.stderr or io.BytesIO() as stream:
            for line in stream:
                self.last_words = line.decode(errors="replace").strip().removeprefix("kennel serve: ")
                sys.stderr.buffer.write(line)
                sys.stderr.flush()

    def clean_up(self) -> None:
        """Call once the server has ended: returns when its other processes have too, and nothing of them is left behind."""
        self._ears.join(_LAST_SECONDS)  # they all have its stderr
        if self.metrics:
            shutil.rmtree(self.metrics, ignore_errors=True)


class Registry:
    """The loaded models of this front. Thread-safe; loading one model does not hold up another.

    Each model goes to the GPU of `gpus` (names as in CUDA_VISIBLE_DEVICES; None: all there are) that has the fewest.
    """

    def __init__(self, config: ServeConfig, gpus: Sequence[str] | None = None) -> None:
        self._config = config
        self._gpus = [] if config.device == "cpu" else host.visible_gpus() if gpus is None else list(gpus)
        self._models: dict[str, Model] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def load(self, name: str, url: str) -> None:
        """Raises AlreadyLoaded, OutOfMemory, BadRequest (what is at `url` is not a model of ours), ModelFailed."""
        with self._lock:
            if self._alive(name):
                raise AlreadyLoaded(f"model {name[:100]} is loaded already")
            needs = self._fitting(Path(url))
            model = self._models[name] = self._start(name, url)
            model.needs = needs
        try:
            _await_ready(model, self._config.load_timeout_seconds)
        except Exception:
            self._end(model)
            raise
        log.info("model ready", extra={"model_name": name, "port": model.port})

    def unload(self, name: str) -> None:
        """Returns when the model's processes are gone and their memory is free. Raises NotFound."""
        with self._lock:
            model = self._alive(name)
        if model is None:
            raise NotFound(f"model {name[:100]} is not loaded")
        self._end(model)

    def get(self, name: str) -> Model:
        """Raises NotFound, for one that is being unloaded too, and NotReady for one that still loads."""
        with self._lock:
            model = self._alive(name)
        if model is None or model.leaving:
            raise NotFound(f"model {name[:100]} is not loaded")
        if not model.ready:
            raise NotReady(f"model {name[:100]} is still loading: try again in a moment")
        return model

    def _alive(self, name: str) -> Model | None:
        """Call with the lock. A model whose server ended by itself is not loaded any more, so that it can be loaded again."""
        model = self._models.get(name)
        if model is None or model.leaving or not model.ready or model.server.poll() is None:
            return model
        model.clean_up()
        log.error("model ended by itself", extra={"model_name": name, "reason": model.last_words})
        del self._models[name]
        return None

    def page(self, after: int, count: int) -> tuple[list[Model], int | None]:
        """The first `count` models that were loaded after number `after`, in that order, and after which the next page starts.

        So no model is passed over, whatever is unloaded between two pages.
        """
        with self._lock:
            found = [self._alive(name) for name in list(self._models)]
        models = [model for model in found if model and model.ready and not model.leaving and model.number > after]
        return models[:count], models[count - 1].number if count < len(models) else None

    def _fitting(self, model_dir: Path) -> int:
        """Bytes a model will need, beside those that are loading now and have not taken all of theirs. Raises OutOfMemory."""
        weights = 0
        with suppress(OSError):  # the model's server will say what is wrong with the directory
            weights = sum(file.stat().st_size for file in model_dir.glob("*.safetensors"))
        needed = _MEMORY_PER_WEIGHTS * weights + _RUNTIME_BYTES
        free = host.free_memory() - sum(model.needs for model in self._models.values() if not model.ready)
        if needed > free:
            raise OutOfMemory(
                f"the model needs about {needed // 1_000_000} MB, {max(free, 0) // 1_000_000} MB are free: unload another first"
            )
        return needed

    def _start(self, name: str, url: str) -> Model:
        with _listen(os.environ.get("SAGEMAKER_SAFE_PORT_RANGE")) as listener:
            own = {"SAGEMAKER_MULTI_MODEL", "SAGEMAKER_BIND_TO_PORT", "PROMETHEUS_MULTIPROC_DIR", "SERVE_MULTI_MODEL"}
            environ = {key: value for key, value in os.environ.items() if key not in own}
            environ |= {child.LISTENER: str(listener.fileno()), child.PARENT: str(os.getpid()), child.NAME: name}
            environ |= {"SERVE_FRONTS": "1", "SERVE_MODEL_PROCESSES": "1"}
            taken = Counter(model.gpu for model in self._models.values())
            gpu = min(self._gpus, key=lambda name: taken[name], default=None)
            if gpu is not None:
                environ["CUDA_VISIBLE_DEVICES"] = gpu
            number, metrics = next(self._numbers), None
            if counted := os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
                metrics = Path(counted) / f"model-{os.getpid()}-{number}"  # a front before this one may have left some
                environ[child.METRICS] = str(metrics)
            server = subprocess.Popen(  # noqa: S603 - our own program; the URL is one argument, and no shell sees it
                [sys.executable, "-m", child.PROGRAM, "--model-dir", url],
                env=environ,
                pass_fds=[listener.fileno()],
                stderr=subprocess.PIPE,
            )
            return Model(name, url, listener.getsockname()[1], server, number, gpu, metrics)

    def _end(self, model: Model) -> None:
        model.leaving = True
        model.server.terminate()
        try:
            model.server.wait(self._config.graceful_timeout_seconds + _LAST_SECONDS)
        except subprocess.TimeoutExpired:
            model.server.kill()
            model.server.wait()
        model.clean_up()
        with self._lock:
            if self._models.get(model.name) is model:  # not one that was loaded under its name since
                del self._models[model.name]


def _listen(safe: str | None) -> socket.socket:
    """A loopback socket on a port that SageMaker leaves to the container: one of `safe` ("23000-23999"), or any without it."""
    first, _, last = (safe or "").partition("-")
    ports = range(int(first), int(last) + 1) if first.isdecimal() and last.isdecimal() else [0]
    for port in ports:
        try:
            return socket.create_server(("127.0.0.1", port), backlog=512)
        except OverflowError:  # no port
            continue
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
    raise ModelFailed(f"no port of SAGEMAKER_SAFE_PORT_RANGE={safe} is free: unload a model first")


def _await_ready(model: Model, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (code := model.server.poll()) is not None:
            model.clean_up()
            raise _failure(model, code)
        try:
            if ask(model, "GET", "/ping", None, {}, timeout=5).status == 200:
                model.ready = True
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise ModelFailed(
        f"the model was not ready within {seconds:g} s: raise SERVE_LOAD_TIMEOUT_SECONDS, or use a faster instance"
    )


def _failure(model: Model, code: int) -> Error:
    """What the caller of a load is told of a server that ended with `code`."""
    if model.leaving:
        return ModelFailed("the model was unloaded while it loaded")
    reason = model.last_words or f"the model's server ended with code {code}"
    if code in (EXIT_NO_MEMORY, -signal.SIGKILL):
        return OutOfMemory(reason)
    return BadRequest(reason) if code == ArtifactError.exit_code else ModelFailed(reason)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


def ask(model: Model, method: str, path: str, body: bytes | None, headers: dict[str, str], timeout: float) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", model.port, timeout=timeout)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
    except http.client.HTTPException as error:
        raise ConnectionError(str(error)) from error
    finally:
        connection.close()
