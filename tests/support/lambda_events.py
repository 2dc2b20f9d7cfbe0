"""Events that reach the Lambda, and fakes for its context and its two clients."""

import base64
import io

from botocore.exceptions import ClientError

from invoke_endpoint import Function
from lambda_settings import Settings

PHOTO = b"\x89PNG not really"
BASE64 = base64.b64encode(PHOTO).decode()


class Context:
    aws_request_id = "11111111-2222-3333-4444-555555555555"

    def __init__(self, *seconds_left: float) -> None:
        self._seconds_left = list(seconds_left) or [30.0]

    def get_remaining_time_in_millis(self) -> int:
        left = self._seconds_left.pop(0) if len(self._seconds_left) > 1 else self._seconds_left[0]
        return int(left * 1000)


class Runtime:
    """Raises or returns what it is given, in turn; then always answers."""

    def __init__(self, *outcomes: object, answer: bytes = b'{"class": "pug"}', media_type: str = "application/json") -> None:
        self.outcomes, self.calls, self._answer, self._media_type = list(outcomes), [], answer, media_type

    def invoke_endpoint(self, **call: object) -> dict:
        self.calls.append(call)
        if self.outcomes and isinstance(error := self.outcomes.pop(0), Exception):
            raise error
        return {"Body": io.BytesIO(self._answer), "ContentType": self._media_type}


class S3:
    def __init__(self, objects: dict[str, bytes], media_type: str = "image/png") -> None:
        self._objects, self._media_type = objects, media_type

    def get_object(self, *, Bucket: str, Key: str) -> dict:
        Key.encode()  # as botocore does
        if Key not in self._objects:
            raise ClientError({"Error": {"Code": "AccessDenied", "Message": "role/secret"}}, "GetObject")
        body = self._objects[Key]
        return {"Body": io.BytesIO(body), "ContentLength": len(body), "ContentType": self._media_type}


def service_error(code: str, http: int = 400, **more: object) -> ClientError:
    response = {"Error": {"Code": code, "Message": "arn:aws:…:123456789012"}, "ResponseMetadata": {"HTTPStatusCode": http}}
    return ClientError({**response, **more}, "InvokeEndpoint")


def model_error(status: int, message: str) -> ClientError:
    return service_error("ModelError", 424, OriginalStatusCode=status, OriginalMessage=message)


def function(runtime: Runtime, s3: S3 | None = None, pauses: list[float] | None = None, **settings: object) -> Function:
    sleep = [].append if pauses is None else pauses.append
    return Function(Settings(endpoint_name="dogs", **settings), runtime, s3, sleep=sleep)


def url_event(body: str = BASE64, *, method: str = "POST", path: str = "/", is_base64: bool = True, **headers: str) -> dict:
    named = {name.replace("_", "-"): value for name, value in ({"content_type": "image/png"} | headers).items()}
    context = {"http": {"method": method, "path": path}, "domainName": "abc.lambda-url.eu-west-1.on.aws"}
    return {"requestContext": context, "rawPath": path, "headers": named, "body": body, "isBase64Encoded": is_base64}


def rest_event(body: str = BASE64, *, method: str = "POST", is_base64: bool = True, **headers: str) -> dict:
    many = {"Content-Type": ["image/png"]} | {name.replace("_", "-"): [value] for name, value in headers.items()}
    event = {"httpMethod": method, "path": "/classify", "headers": None, "multiValueHeaders": many, "requestContext": {}}
    return event | {"body": body, "isBase64Encoded": is_base64}


def balancer_event() -> dict:
    return rest_event() | {"requestContext": {"elb": {"targetGroupArn": "arn"}}}
