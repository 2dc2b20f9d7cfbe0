"""What a person wants to know about a run: one HTML page that needs nothing beside it, and a model card in Markdown.

Both are written to `report/` in the model directory and in the output directory. Serving does not read them.
"""

import base64
import html
import io
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from containers.core import logs, redaction
from containers.core.manifest import REPORT_DIR
from containers.core.preprocessing import decode
from containers.train import costs, figures
from containers.train.augmentation import read_photo
from containers.train.index import Photo
from containers.train.results import Results
from containers.train.run import Run

PAGE, CARD = "index.html", "MODEL_CARD.md"
_WORST = 24
_THUMBNAIL = 128
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}table{border-collapse:collapse}"
    "td,th{padding:.2rem .7rem;text-align:right;border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left}"
    "figure{display:inline-block;margin:.3rem;width:9rem;font-size:12px;vertical-align:top}svg{max-width:100%;height:auto}"
    "pre{background:#f6f6f6;padding:1rem;overflow:auto}"
)
_log = logs.get(__name__)


def write(run: Run, results: Results, notes: Sequence[str] = ()) -> None:
    """On rank 0. `notes` are sentences for people. Without a report there still is a model, so failing is a warning."""
    try:
        pages = {PAGE: page(run, results, notes), CARD: card(run, results)}
        for directory in (run.job.paths.model_dir / REPORT_DIR, run.job.paths.output_dir / REPORT_DIR):
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(parents=True)
            for name, text in pages.items():
                (directory / name).write_text(text, encoding="utf-8")
    except Exception as error:  # noqa: BLE001 - whatever it is, the model is written
        _log.warning("report not written", extra={"reason": f"{type(error).__name__}: {error}"}, exc_info=True)


def page(run: Run, results: Results, notes: Sequence[str] = ()) -> str:
    shown, split = results.shown, "test" if results.test else "validation"
    config = json.dumps(run.config.model_dump(mode="json"), indent=2)
    found = redaction.secrets(os.environ)  # a note may be an error's own words
    notes = [f"Calibration: {results.calibration.note}.", *(redaction.without(note, found) for note in notes)]
    sections = [
        ("Numbers", _table(("", ""), [(name, f"{value:.4g}") for name, value in results.manifest.metrics.items()])),
        ("Training", f"<p>{html.escape(_ending(results))}</p>{figures.curves(results.history, results.best_epoch)}"),
        (f"Confusion matrix ({split} photos)", figures.confusion(shown.confusion.numpy(), run.index.class_names)),
        (f"Per class ({split} photos)", _per_class(run, results)),
        (f"Reliability ({split} photos)", figures.reliability(results.reliability_before, results.reliability_after)),
        (f"Most confidently wrong ({split} photos)", _worst(run, results)),
        ("Photos", _data(run)),
        ("Where the time went", _throughput(results)),
        ("What it would cost", _costs(run, results)),
        ("Notes", "".join(f"<p>{html.escape(note)}</p>" for note in notes)),
        ("Configuration", f"<pre>{html.escape(config)}</pre>"),
    ]
    body = "".join(f"<h2>{title}</h2>{content}" for title, content in sections)
    title = html.escape(f"{run.job.name}: {run.config.architecture}, {len(run.index.class_names)} classes")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f"<body><h1>{title}</h1>{body}</body></html>\n"
    )


def card(run: Run, results: Results) -> str:
    """What someone who gets only the model should know, after Mitchell et al. 2019, Model Cards for Model Reporting."""
    facts, photos = results.manifest, results.manifest.provenance.dataset["photos"]
    metrics = "\n".join(f"| {name} | {value:.4g} |" for name, value in facts.metrics.items())
    classes = ", ".join(facts.class_names)
    scores = results.shown.per_class()
    weakest = sorted(zip(scores.f1.tolist(), facts.class_names, strict=True))[:5]
    counted = ", ".join(f"{split} {count}" for split, count in photos.items())
    return (
        f"# {run.job.name}\n\n"
        f"An image classifier ({facts.architecture}, {len(facts.class_names)} classes) trained by Kennel "
        f"{facts.provenance.kennel_version} with torch {facts.provenance.torch_version}, from {facts.provenance.created}.\n\n"
        f"## Intended use\n\nTo tell these classes apart, on photos like those it was trained on: {classes}.\n"
        "It answers with one of these classes whatever it is shown.\n\n"
        f"## Training\n\nPhotos: {counted}. Starting weights: {facts.provenance.pretrained}.\n{_ending(results)}\n\n"
        f"## Evaluation\n\nEvery photo counted once, in float32, with the best weights.\n\n"
        f"| metric | value |\n| --- | --- |\n{metrics}\n\n"
        f"Calibration: {facts.calibration.note} (temperature {facts.calibration.temperature:.3f}).\n\n"
        f"Weakest classes (F1): {', '.join(f'{name} {value:.2f}' for value, name in weakest)}.\n\n"
        "## Limits\n\nNothing here measures photos of another kind, other cameras, or things that are none of the classes.\n"
    )


def _ending(results: Results) -> str:
    epochs = len(results.history)
    skipped = sum(int(row.get("skipped_steps", 0)) for row in results.history)
    said = f" {skipped} steps were skipped: their loss or gradient was not finite." if skipped else ""
    return (
        f"{epochs} epochs; the best by validation loss was epoch {results.best_epoch}. Ended because: {results.reason}.{said}"
    )


def _table(head: Iterable[str], rows: Iterable[Sequence[object]]) -> str:
    lines = ["".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) for row in rows]
    top = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    return f"<table><tr>{top}</tr><tr>{'</tr><tr>'.join(lines)}</tr></table>"


def _per_class(run: Run, results: Results) -> str:
    scores = results.shown.per_class()
    columns = (scores.precision.tolist(), scores.recall.tolist(), scores.f1.tolist(), scores.support.tolist())
    rows = sorted(zip(run.index.class_names, *columns, strict=True), key=lambda row: row[3])
    head = ("class", "precision", "recall", "F1", "photos")
    return _table(head, [(name, f"{p:.3f}", f"{r:.3f}", f"{f1:.3f}", n) for name, p, r, f1, n in rows])


def _worst(run: Run, results: Results) -> str:
    """Wrong answers, the most confident first, as thumbnails inside the page."""
    shown, photos = results.shown, run.index.splits["test" if results.test else "valid"]
    wrong = (shown.predictions != shown.labels).nonzero().flatten().tolist()
    wrong.sort(key=lambda index: -float(shown.confidences[index]))
    if not wrong:
        return "<p>None: every photo was classified rightly.</p>"
    names = run.index.class_names
    cells = []
    for index in wrong[:_WORST]:
        said = f"{names[int(shown.predictions[index])]} ({float(shown.confidences[index]):.2f})"
        caption = f"{photos[index].path.name}: {said}, is {names[photos[index].label]}"
        cells.append(
            f'<figure><img src="{_thumbnail(photos[index])}" alt=""><figcaption>{html.escape(caption)}</figcaption></figure>'
        )
    return f"<p>{len(wrong)} of {len(photos)} are wrong.</p>" + "".join(cells)


def _thumbnail(photo: Photo) -> str:
    image = decode(read_photo(photo.path))
    image.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _data(run: Run) -> str:
    """Counts, and what preflight reported where it ran before (`data_report.json`)."""
    counts = {split: run.index.counts(split) for split in run.index.splits}
    rows = [(name, *(counts[split][label] for split in counts)) for label, name in enumerate(run.index.class_names)]
    table = _table(("class", *counts), [*rows, ("all", *(sum(each) for each in counts.values()))])
    made = [f"{split}: {how}" for split, how in run.index.split_made.items()]
    lines = "".join(f"<p>{html.escape(line)}</p>" for line in [*made, *(f"skipped {entry}" for entry in run.index.skipped)])
    found = _preflight_report(run.job.paths.output_dir / "data_report.json")
    kept = {
        name: found[name] for name in ("bytes", "shorter_side_pixels", "imbalance", "traits", "duplicates") if name in found
    }
    return table + lines + (f"<pre>{html.escape(json.dumps(kept, indent=2))}</pre>" if kept else "")


def _preflight_report(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def _throughput(results: Results) -> str:
    head = ("phase", "ranks", "photos/s", "waiting for photos", "waiting for peers", "computing")
    rows = []
    for phase in dict.fromkeys(row["phase"] for row in results.history):
        mine = [row for row in results.history if row["phase"] == phase]
        seconds = sum(float(row["train_seconds"]) for row in mine) or 1e-9
        data, peers = (
            sum(float(row[f"{name}_wait_fraction"]) * float(row["train_seconds"]) for row in mine) for name in ("data", "comm")
        )
        photos = sum(float(row["images_per_second"]) * float(row["train_seconds"]) for row in mine)
        shares = (data / seconds, peers / seconds, 1 - (data + peers) / seconds)
        ranks = ", then ".join(str(count) for count in dict.fromkeys(row.get("world_size", results.world_size) for row in mine))
        rows.append((phase, ranks, f"{photos / seconds:.0f}", *(f"{share:.0%}" for share in shares)))
    return _table(head, rows) + "<p>Over all ranks, training steps only; shares are rank 0's.</p>"


def _costs(run: Run, results: Results) -> str:
    photos = len(run.index.splits["train"]) * run.config.epochs
    estimate = costs.estimate(
        photos,
        run.devices[0] if len(set(run.devices)) == 1 else "several kinds",
        results.history,
        ranks=run.group.world_size,
        expected=run.config.t4_images_per_second,
    )
    rows = [(row.instance, f"{row.hours:.2f}", f"${row.on_demand:.2f}", f"${row.spot:.2f}") for row in estimate.rows]
    return _table(("instance", "hours", "on demand", "spot"), rows) + f"<p>{html.escape(estimate.basis)}</p>"
