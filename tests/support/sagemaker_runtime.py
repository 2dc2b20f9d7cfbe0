"""A stand-in for SageMaker's runtime service: POST /endpoints/NAME/invocations goes on to a real server's /invocations.

boto3 is pointed here by AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME and needs no other change. It does what the service visibly does
(API reference of InvokeEndpoint): unknown endpoint → ValidationError 400; the container's 4xx and 5xx → ModelError 424
with OriginalStatusCode and OriginalMessage (at most 2048 characters); headers reduced to those that SageMaker forwards;
with TargetModel, /models/NAME/invoke instead (SageMaker puts a hash of the model's address in place of NAME).
"""

import http.client
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

BODY_LIMIT_BYTES = 25 * 1024 * 1024
FORWARDED = ("content-type", "accept", "x-amzn-sagemaker-custom-attributes", "x-amzn-sagemaker-inference-id")
TIMED_OUT = "Your invocation timed out while waiting for a response from container primary."


class SageMakerRuntime:
    """`endpoints` maps an endpoint's name to a server's URL. `failures` are answered first, one each: (status, code).

    `calls` have begun, `ended` of them are over, whether or not their caller waited.
    """

    def __init__(self, endpoints: dict[str, str]) -> None:
        self.endpoints = endpoints
        self.failures: list[tuple[int, str]] = []
        self.calls = 0
        self.ended = 0
        self.timeout_seconds = 60.0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("_Bound", (_Service,), {"runtime": self}))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "SageMakerRuntime":
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Service(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    runtime: SageMakerRuntime

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        self.runtime.calls += 1
        try:
            self._answer(self.rfile.read(int(self.headers.get("content-length", 0))))
        finally:
            self.runtime.ended += 1

    def _answer(self, body: bytes) -> None:
        name = self.path.split("/")[2]
        if self.runtime.failures:
            status, code = self.runtime.failures.pop(0)
            self._error(status, code, Message=f"{code} of arn:aws:sagemaker:eu-west-1:123456789012:endpoint/{name}")
        elif name not in self.runtime.endpoints:
            self._error(400, "ValidationError", Message=f"Endpoint {name} of account 123456789012 not found.")
        elif len(body) > BODY_LIMIT_BYTES:
            self._error(400, "ValidationError", Message="Member must have length less than or equal to 26214400")
        else:
            self._forward(self.runtime.endpoints[name], body)

    def _forward(self, url: str, body: bytes) -> None:
        headers = {name: self.headers[name] for name in FORWARDED if name in self.headers}
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=self.runtime.timeout_seconds)
        try:
            model = self.headers.get("x-amzn-sagemaker-target-model")
            connection.request("POST", f"/models/{model}/invoke" if model else "/invocations", body, headers)
            response = connection.getresponse()
            status, media_type, answer = response.status, response.getheader("content-type", ""), response.read()
        except OSError as error:
            status, answer = 0, (TIMED_OUT if isinstance(error, TimeoutError) else str(error)).encode()
        finally:
            connection.close()
        if status == 200:
            return self._send(200, media_type, answer)
        original = answer.decode(errors="replace")[:2048]
        message = f"Received error ({status}) from primary with message {original!r}"
        return self._error(424, "ModelError", Message=message, OriginalStatusCode=status, OriginalMessage=original)

    def _error(self, status: int, code: str, **body: object) -> None:
        self._send(status, "application/json", json.dumps(body).encode(), code)

    def _send(self, status: int, media_type: str, body: bytes, code: str | None = None) -> None:
        self.send_response(status)
        if code:
            self.send_header("x-amzn-errortype", code)
        else:
            self.send_header("x-Amzn-Invoked-Production-Variant", "primary")
        self.send_header("content-type", media_type)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
