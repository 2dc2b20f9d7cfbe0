"""Events for deploy: a network that delays, drops, cuts and truncates between it and AWS, a kill, and objects that are damaged.

AWS is moto's server with the repository's extension, over real HTTP through a proxy (`tests.support.fault_proxy`); uploads are
the real command in a process of its own.
"""

import base64
import hashlib
import logging
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
from moto.server import ThreadedMotoServer

from deploy import stack
from deploy.context import Context
from deploy.errors import DeployError
from tests.faults.impatient import Impatient
from tests.faults.invariants import hold, shuffled
from tests.faults.trees import ROOT
from tests.support import aws as fake
from tests.support import moto_ext
from tests.support.fault_proxy import FAULTS, FaultProxy

KINDS = ("upload through a bad network", "kill an upload", "damage an object", "apply through a bad network")
DEADLINE = 300.0
MOST_TRIES = 40
_RATE = 0.4


def schedule(count: int, seed: int) -> list[str]:
    """Every kind about equally often; apply, the dearest, half as often."""
    return shuffled([*KINDS[:3], *KINDS], count, random.Random(seed))


class Network:
    """An account behind a bad network. Call `close` at the end."""

    def __init__(self, folder: Path, seed: int, done: Callable[[str], None]) -> None:
        """`done` is told of each event and what it came to."""
        self._folder, self._dice, self._done = folder, random.Random(seed), done
        moto_ext.install()
        moto_ext.reset()
        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line per request otherwise
        self._server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.proxy = FaultProxy((host, port), seed).__enter__()
        self._direct = boto3.Session("test", "test", region_name=fake.REGION)
        self._url = f"http://{host}:{port}"
        self._session = Impatient(self.proxy.url)  # for every try, as it keeps the models of the services
        self._context().client("s3")  # loads the models before anything is timed

    def close(self) -> None:
        self.proxy.__exit__(None, None, None)
        self._server.stop()

    def disturb(self, kinds: list[str]) -> None:
        events = {
            KINDS[0]: self.upload_through_a_bad_network,
            KINDS[1]: self.kill_an_upload,
            KINDS[2]: self.damage_an_object,
            KINDS[3]: self.apply_through_a_bad_network,
        }
        for kind in kinds:
            self._done(f"{kind} -> {events[kind]()}")

    def upload_through_a_bad_network(self) -> str:
        photos, bucket = self._photos(), self._bucket()
        tries = self._until_done(lambda: self._upload(photos), lambda: self._whole(bucket, photos))
        self._complete(bucket, photos)
        return f"{len(photos)} photos in {tries} tries"

    def kill_an_upload(self) -> str:
        photos, bucket = self._photos(), self._bucket()
        self.proxy.rate, self.proxy.faults = 1.0, ("delay",)  # long enough to be killed in the middle
        process = self._start_upload(photos)
        limit = time.monotonic() + DEADLINE
        while self._count(bucket) < 3 and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        self.proxy.rate = 0.0
        arrived = self._count(bucket)
        self._whole(bucket, photos)
        code, told = self._upload(photos)
        hold(code == 0, "I7", f"an upload that was killed is not continued: {told}")
        self._complete(bucket, photos)
        return f"killed after {arrived} of {len(photos)} photos, then continued"

    def damage_an_object(self) -> str:
        """Half of it is there, or other bytes of the same length; with the checksum of the whole, or none."""
        photos, bucket = self._photos(), self._bucket()
        hold(self._upload(photos)[0] == 0, "I7", "an upload through a good network failed")
        key, path = self._dice.choice(sorted(photos.items()))
        body = path.read_bytes()
        half = self._dice.random() < 0.5
        spoilt = body[: len(body) // 2] if half else bytes([body[0] ^ 1]) + body[1:]
        checksum = base64.b64encode(hashlib.sha256(spoilt).digest()).decode()
        self._s3().put_object(Bucket=bucket, Key=key, Body=spoilt, ChecksumAlgorithm="SHA256", ChecksumSHA256=checksum)
        code, told = self._upload(photos)
        hold(code == 0 and '"uploaded": 1' in told, "I7", f"a damaged object was believed: {told}")
        self._complete(bucket, photos)
        return "half of an object was not believed" if half else "an object of other bytes was not believed"

    def apply_through_a_bad_network(self) -> str:
        """Until it succeeds; then a plan has nothing to do, and everything is there once."""
        self._reset()
        config = fake.stage()

        def apply() -> tuple[int, str]:
            try:
                list(stack.engine(self._context(config), None).apply())
            except DeployError as error:
                return 1, str(error)
            return 0, ""

        tries = self._until_done(apply, lambda: None)
        steps = stack.engine(self._context(config), None).plan()
        left = [str(step) for step in steps if step.action != "keep"]
        hold(not left, "I7", f"after apply succeeded the plan still has: {left}")
        return f"{len(steps)} resources in {tries} tries"

    def _until_done(self, attempt: Callable[[], tuple[int, str]], check: Callable[[], None]) -> int:
        """`attempt` while the network is bad, until it succeeds; the number of tries. Each failure must say what failed."""
        try:
            for tries in range(1, MOST_TRIES + 1):
                self.proxy.rate, self.proxy.faults = _RATE / (1 + tries // 8), FAULTS
                began = time.monotonic()
                code, told = attempt()
                hold(time.monotonic() - began < DEADLINE, "I7", f"took {time.monotonic() - began:.0f} s")
                hold("Traceback" not in told, "I7", f"a traceback: {told[-2000:]}")
                check()
                if code == 0:
                    return tries
                hold(code == 1 and len(told) > 20, "I7", f"exit code {code}: {told[-500:]}")
        finally:
            self.proxy.rate = 0.0
        return hold(False, "I7", f"not done after {MOST_TRIES} tries") or 0

    def _context(self, config: Any = None) -> Context:
        return Context(
            config or fake.stage(), session=self._session, clock=fake.FakeClock(), console=fake.Screen(), out=fake.Screen()
        )

    def _s3(self) -> Any:
        return self._direct.client("s3", endpoint_url=self._url)

    def _reset(self) -> None:
        request = urllib.request.Request(f"{self._url}/moto-api/reset", method="POST")
        with urllib.request.urlopen(request, timeout=60):
            moto_ext.reset()

    def _bucket(self) -> str:
        """The stage's, empty. Without its policy: moto ignores conditions, so TLS-only would refuse every upload."""
        self._reset()
        name = f"kennel-dev-{fake.ACCOUNT}-us-east-1"
        self._s3().create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": fake.REGION})
        return name

    def _photos(self) -> dict[str, Path]:
        """Keys → files of new bytes, of sizes from a few bytes to some TCP windows."""
        folder = self._folder / f"photos-{time.monotonic_ns()}"
        files = {}
        for number in range(12):
            path = folder / "train" / ("pug", "hound")[number % 2] / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self._dice.randbytes(self._dice.choice((1, 900, 40_000, 300_000))))
            files[f"data/{folder.name}/{path.relative_to(folder).as_posix()}"] = path
        return files

    def _start_upload(self, photos: dict[str, Path]) -> subprocess.Popen:
        folder = next(iter(photos.values())).parents[2]
        environment = {
            **os.environ, "AWS_ENDPOINT_URL": self.proxy.url, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_EC2_METADATA_DISABLED": "true",
        }  # fmt: skip
        command = [sys.executable, "-m", "tests.faults.impatient", "data", str(folder), "--json"]
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def _upload(self, photos: dict[str, Path]) -> tuple[int, str]:
        process = self._start_upload(photos)
        told, _ = process.communicate(timeout=DEADLINE)
        return process.returncode, told

    def _count(self, bucket: str) -> int:
        return len(self._s3().list_objects_v2(Bucket=bucket).get("Contents", []))

    def _whole(self, bucket: str, photos: dict[str, Path]) -> None:
        """I7: whatever is in the bucket is one of our files, with its bytes."""
        s3 = self._s3()
        for row in s3.list_objects_v2(Bucket=bucket).get("Contents", []):
            body = s3.get_object(Bucket=bucket, Key=row["Key"])["Body"].read()
            hold(row["Key"] in photos and body == photos[row["Key"]].read_bytes(), "I7", f"{row['Key']} is not our file")

    def _complete(self, bucket: str, photos: dict[str, Path]) -> None:
        self._whole(bucket, photos)
        hold(self._count(bucket) == len(photos), "I7", f"{self._count(bucket)} of {len(photos)} photos arrived")
        code, told = self._upload(photos)
        hold(code == 0 and '"uploaded": 0' in told, "I7", f"a finished upload still has something to do: {told}")
