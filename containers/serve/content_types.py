"""What a request's body may be, and what an answer may look like. One function and one table row per media type."""

import base64
import csv
import functools
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from werkzeug.datastructures import FileStorage, MIMEAccept, MultiDict
from werkzeug.exceptions import HTTPException
from werkzeug.formparser import FormDataParser
from werkzeug.http import parse_options_header

from containers.core.errors import Error
from containers.serve.errors import BadRequest, NotAcceptable, TooLarge, UnsupportedMediaType, described

Item = bytes | Error
"""One photo of a request: its encoded bytes, or what is wrong with this one."""
Outcome = np.ndarray | Error
"""One photo's answer: float32 probabilities (classes,), or why there is none."""

JSON, JSON_LINES, CSV = "application/json", "application/jsonlines", "text/csv"
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF", b"GIF8", b"BM", b"II*\0", b"MM\0*")


@dataclass(frozen=True)
class Body:
    """`options` are the parameters of the Content-Type header (boundary, charset)."""

    data: bytes
    options: dict[str, str]
    max_instances: int


@dataclass(frozen=True)
class Kind:
    """`single`: the body is one photo, and what is wrong with it is wrong with the request. `answer`: the default output."""

    read: Callable[[Body], Sequence[Item]]
    single: bool = False
    answer: str = JSON


def _photo(body: Body) -> list[Item]:
    if not body.data:
        raise BadRequest("the body is empty: send the bytes of a photo")
    return [body.data]


def _sniffed(body: Body) -> list[Item]:
    photo = _photo(body)
    if not body.data.startswith(_MAGIC):
        raise UnsupportedMediaType(
            f"the body starts like no photo: send JPEG, PNG or WebP, or name its Content-Type: {', '.join(READERS)}"
        )
    return photo


def _json_instances(body: Body) -> list[Item]:
    document = _parse_json(body.data)
    instances = document.get("instances") if isinstance(document, dict) else None
    if not isinstance(instances, list) or not instances:
        raise BadRequest('the JSON must be {"instances": [{"b64": "…"}, …]} with at least one instance')
    _check_count(len(instances), body)
    return [_instance(instance) for instance in instances]


def _json_lines(body: Body) -> list[Item]:
    lines = [line for line in body.data.splitlines() if line.strip()]
    if not lines:
        raise BadRequest('the body has no lines: send {"b64": "…"} on each line')
    _check_count(len(lines), body)
    items: list[Item] = []
    for line in lines:
        try:
            items.append(_instance(_parse_json(line)))
        except BadRequest as error:
            items.append(error)
    return items


def _multipart(body: Body) -> list[Item]:
    plain = cast("type[MultiDict[str, Any]]", list)  # of (name, part), in the body's order; a MultiDict groups them by name
    parser = FormDataParser(stream_factory=_in_memory, max_form_parts=body.max_instances, cls=plain, silent=False)
    try:
        _, _fields, files = parser.parse(io.BytesIO(body.data), "multipart/form-data", len(body.data), body.options)
    except HTTPException as error:
        raise TooLarge(f"more than {body.max_instances} parts in one request") from error
    except ValueError as error:
        raise BadRequest(f"the multipart body cannot be read: {error}") from None
    uploads = [file for _, file in cast("list[tuple[str, FileStorage]]", files)]
    if not uploads:
        raise BadRequest("the form has no file: send each photo as a file part, as curl -F photo=@dog.jpg does")
    return [upload.read() or BadRequest("the file is empty") for upload in uploads]


def _in_memory(*_: Any, **__: Any) -> io.BytesIO:
    """Werkzeug would put large files on disk, which may be read-only."""
    return io.BytesIO()


def _parse_json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"not JSON: {error}") from None


def _instance(instance: Any) -> Item:
    text = instance.get("b64") if isinstance(instance, dict) else None
    if not isinstance(text, str) or not text:
        return BadRequest('an instance must be {"b64": "…"}, a photo in base64')
    try:
        return _decoded(text)
    except ValueError as error:
        return BadRequest(f"b64 is not base64: {error}")


def _decoded(text: str) -> bytes:
    """Base64, with or without line breaks or a `data:…;base64,` in front, as the Lambda takes it too. Raises ValueError."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        plain = text.rpartition(";base64,")[2].encode("ascii")
        return base64.b64decode(plain.translate(None, b" \t\r\n\f\v"), validate=True)


def _check_count(count: int, body: Body) -> None:
    if count > body.max_instances:
        raise TooLarge(f"{count} instances in one request; the limit is {body.max_instances} (SERVE_MAX_INSTANCES)")


READERS: dict[str, Kind] = {
    "image/jpeg": Kind(_photo, single=True),
    "image/png": Kind(_photo, single=True),
    "image/webp": Kind(_photo, single=True),
    "application/x-image": Kind(_photo, single=True),
    "application/octet-stream": Kind(_sniffed, single=True),
    "application/json": Kind(_json_instances),
    "application/jsonlines": Kind(_json_lines, answer=JSON_LINES),
    "multipart/form-data": Kind(_multipart),
}


def kind_of(content_type: str | None) -> tuple[Kind, dict[str, str]]:
    """The table's row for a Content-Type header, and the header's parameters; a missing header means octet-stream.

    Raises UnsupportedMediaType naming what is known.
    """
    name, options = parse_options_header(content_type or "application/octet-stream")
    kind = READERS.get(name.lower())
    if kind is None:
        raise UnsupportedMediaType(f"Content-Type {name[:100]!r} is not supported: use one of {', '.join(READERS)}")
    return kind, options


@dataclass(frozen=True)
class Labels:
    """What turns probabilities into an answer. `model` is repeated in every JSON answer."""

    class_names: tuple[str, ...]
    top_k: int
    model: dict[str, str]

    @functools.cached_property
    def _pairs(self) -> list[str]:
        """For each class "class" and "probability", with a place for the number. Made once, not for every answer."""
        return [f'"class": {_quoted(name)}, "probability": %.6f' for name in self.class_names]

    @functools.cached_property
    def _every(self) -> str:
        return "{" + ", ".join(f"{_quoted(name)}: %.6f" for name in self.class_names) + "}"

    def describe(self, outcome: Outcome) -> str:
        """One prediction as JSON: class, probability, the best `top_k`, and the probability of every class."""
        if isinstance(outcome, Error):
            return json.dumps({"error": described(outcome.kind, str(outcome))})
        best = np.argsort(-outcome, kind="stable")[: self.top_k].tolist()
        values = outcome.tolist()
        pairs = [self._pairs[index] % values[index] for index in best]
        top = ", ".join([f"{{{pair}}}" for pair in pairs])
        return f'{{{pairs[0]}, "top": [{top}], "probabilities": {self._every % tuple(values)}}}'


def _quoted(name: str) -> str:
    """As a JSON string, safe in a format."""
    return json.dumps(name).replace("%", "%%")


def _as_json(outcomes: Sequence[Outcome], labels: Labels) -> str:
    predictions = ", ".join([labels.describe(outcome) for outcome in outcomes])
    return f'{{"predictions": [{predictions}], "model": {json.dumps(labels.model)}}}'


def _as_json_lines(outcomes: Sequence[Outcome], labels: Labels) -> str:
    return "".join(labels.describe(outcome) + "\n" for outcome in outcomes)


def _as_csv(outcomes: Sequence[Outcome], labels: Labels) -> str:
    """One line per photo: class, probability, error; no header, as SageMaker's own algorithms answer."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    for outcome in outcomes:
        if isinstance(outcome, Error):
            writer.writerow(["", "", f"{outcome.kind}: {outcome}"[:1000]])
        else:
            best = int(outcome.argmax())
            writer.writerow([labels.class_names[best], round(float(outcome[best]), 6), ""])
    return buffer.getvalue()


WRITERS: dict[str, Callable[[Sequence[Outcome], Labels], str]] = {JSON: _as_json, JSON_LINES: _as_json_lines, CSV: _as_csv}


def choose_writer(accept: MIMEAccept, kind: Kind) -> str:
    """The media type to answer with. Without a wish it is the kind's own. Raises NotAcceptable."""
    if not accept:
        return kind.answer
    # Without parameters: application/json; charset=utf-8 wants JSON, and werkzeug takes it for another type.
    wanted = MIMEAccept([(name.partition(";")[0].strip(), quality) for name, quality in accept])
    best = wanted.best_match([kind.answer, *WRITERS])
    if best is None:
        raise NotAcceptable(f"Accept {accept.to_header()[:100]!r} cannot be met: use one of {', '.join(WRITERS)}")
    return best
