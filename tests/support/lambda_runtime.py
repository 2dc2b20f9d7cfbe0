"""The part of AWS Lambda that calls a function: the Runtime API, on loopback, with AWS's own client (awslambdaric) as the
function's process. So the handler runs as it does in the cloud: its own process, cold start, deadline, one event at a time.

Protocol: https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
"""

import json
import os
import queue
import subprocess
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from deploy.function import RUNTIME

EVENT_LIMIT_BYTES = 6 * 1024 * 1024
REGION = "eu-west-1"


class LambdaFunction:
    """`with LambdaFunction(root, "module.handler", {...}) as f: f.invoke(event)`. `timeout_seconds` is the function's own."""

    def __init__(self, root: Path, handler: str, environment: dict[str, str], *, timeout_seconds: float = 60.0) -> None:
        self.timeout_seconds = timeout_seconds
        self.log: list[str] = []
        self.init_error: dict[str, Any] | None = None
        self._events: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self._results: queue.Queue[tuple[str, str, bytes]] = queue.Queue()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._protocol())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "awslambdaric", handler],
            env=self._environment(root, handler) | environment,
            cwd=root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read_log)
        self._reader.start()

    def _environment(self, root: Path, handler: str) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "KENNEL_"))}
        return inherited | {
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self._server.server_address[1]}",
            "LAMBDA_TASK_ROOT": str(root),
            "_HANDLER": handler,
            "AWS_EXECUTION_ENV": f"AWS_Lambda_{RUNTIME}",  # awslambdaric writes other JSON before Python 3.12
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_LAMBDA_FUNCTION_NAME": "kennel-test",
            "AWS_LAMBDA_FUNCTION_VERSION": "1",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "256",
            "AWS_LAMBDA_INITIALIZATION_TYPE": "provisioned-concurrency",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_EC2_METADATA_DISABLED": "true",
            "PYTHONPATH": str(root),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def _read_log(self) -> None:
        assert self._process.stdout
        with self._process.stdout as lines:
            self.log += (line.rstrip("\n") for line in lines)

    def _protocol(self) -> type[BaseHTTPRequestHandler]:
        function = self

        class Protocol(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:  # /2018-06-01/runtime/invocation/next
                request_id, event = function._events.get()
                deadline = int((time.time() + function.timeout_seconds) * 1000)
                self.send_response(200)
                self.send_header("Lambda-Runtime-Aws-Request-Id", request_id)
                self.send_header("Lambda-Runtime-Deadline-Ms", str(deadline))
                self.send_header("Lambda-Runtime-Invoked-Function-Arn", f"arn:aws:lambda:{REGION}:123456789012:function:test")
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(event)))
                self.end_headers()
                self.wfile.write(event)

            def do_POST(self) -> None:  # …/invocation/ID/response, …/invocation/ID/error, …/init/error
                *_, request_id, kind = self.path.split("/")
                body = self._body()
                if request_id == "init":
                    function.init_error = json.loads(body)
                function._results.put((request_id, kind, body))
                self.send_response(202)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def _body(self) -> bytes:
                if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                    return self.rfile.read(int(self.headers.get("Content-Length", 0)))
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body

        return Protocol

    def invoke(self, event: Any) -> dict[str, Any]:
        """The handler's answer, or {"FunctionError": …, "errorType", "errorMessage"} as Lambda reports a failed call."""
        raw = json.dumps(event).encode()
        if len(raw) > EVENT_LIMIT_BYTES:
            raise ValueError("RequestTooLargeException: Lambda takes events up to 6 MB")
        request_id = str(uuid.uuid4())
        self._events.put((request_id, raw))
        try:
            answered, kind, body = self._results.get(timeout=self.timeout_seconds)
        except queue.Empty:
            self._process.kill()
            message = f"{request_id} Task timed out after {self.timeout_seconds:.2f} seconds"
            return {"FunctionError": "Unhandled", "errorType": "Sandbox.Timedout", "errorMessage": message}
        if kind == "error":
            return {"FunctionError": "Unhandled", **json.loads(body)}
        assert answered == request_id
        if len(body) > EVENT_LIMIT_BYTES:
            return {"FunctionError": "Unhandled", "errorType": "Function.ResponseSizeTooLarge"}
        return dict(json.loads(body))

    def log_lines(self, event: str) -> list[dict[str, Any]]:
        """The function's own JSON log lines with this `event`. Call it after the function was closed: then all have come."""
        lines = [json.loads(line) for line in self.log if line.startswith("{")]
        return [line for line in lines if line.get("event") == event]

    def __enter__(self) -> "LambdaFunction":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self._server.shutdown()
        self._server.server_close()
