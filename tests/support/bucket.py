"""S3's GetObject, answered by a server in this process that can be late, busy, or lose a connection."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from wsgiref.simple_server import WSGIRequestHandler, make_server


class Quiet(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


class Bucket:
    """S3's GetObject, as boto3 asks for it at an address of its own (path style).

    It can be late until released. `busy` calls are refused first, `lost` ones end with their connection, without an answer.
    """

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects, self.asked, self.busy, self.lost = objects, [], 0, 0
        self.released = threading.Event()
        self.released.set()

    def __call__(self, environ, start_response):
        self.asked.append(environ["PATH_INFO"])
        self.released.wait(60)
        if self.lost:
            self.lost -= 1
            environ["connection"].shutdown(socket.SHUT_RDWR)
        if self.busy:
            self.busy -= 1
            start_response("503 Slow Down", [("Content-Type", "application/xml")])
            return [b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"]
        if (found := self.objects.get(environ["PATH_INFO"])) is None:
            start_response("404 Not Found", [("Content-Type", "application/xml")])
            return [b"<Error><Code>NoSuchKey</Code><Message>arn:123456789012</Message></Error>"]
        start_response("200 OK", [("Content-Type", "image/png"), ("Content-Length", str(len(found)))])
        return [found]


class _WithConnection(Quiet):
    def get_environ(self):
        return super().get_environ() | {"connection": self.connection}


@contextmanager
def serving(objects: dict[str, bytes]) -> Iterator[tuple[Bucket, str]]:
    """`objects` by their paths, bucket included; and the URL at which they are."""
    application = Bucket(objects)
    with make_server("127.0.0.1", 0, application, handler_class=_WithConnection) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield application, f"http://127.0.0.1:{http.server_port}"
        application.released.set()
        http.shutdown()
