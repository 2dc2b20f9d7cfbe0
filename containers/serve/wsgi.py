"""From shared slots to a WSGI application: what a front builds once gunicorn has told it which front it is."""

from flask import Flask

from containers.core.manifest import WEIGHTS_FILE, Manifest
from containers.serve.app import Front, create_app
from containers.serve.body_memory import BodyMemory
from containers.serve.config import ServeConfig
from containers.serve.content_types import Labels
from containers.serve.health import Health
from containers.serve.invocations import Classifier
from containers.serve.places import Places
from containers.serve.sizing import SPARE_THREADS, Sizing
from containers.serve.slots import SlotPool, Slots
from containers.serve.telemetry import Now

_THREADS_FOR_PINGS = 8


def build(number: int, config: ServeConfig, manifest: Manifest, sizing: Sizing, slots: Slots, health: Health) -> Flask:
    """The application of front `number`, with its share of the slots."""
    pool = SlotPool(slots, number * sizing.slots_per_front, sizing.slots_per_front)
    model = {"architecture": manifest.architecture, "id": manifest.files[WEIGHTS_FILE][:12]}
    gauges = Now(
        {
            "kennel_slots": ("Photos that may wait or be computed at once", lambda: slots.count),
            "kennel_slots_in_use": ("Slots in use now", slots.in_flight),
            "kennel_photos_submitted": ("Photos that wait for a model or are computed now", slots.submitted),
            "kennel_model_processes": ("Model processes wanted", lambda: health.processes),
            "kennel_model_processes_ready": (
                "Model processes that would answer now",
                lambda: health.serving(config.stuck_after_seconds),
            ),
        }
    )
    front = Front(
        config=config,
        health=health,
        labels=Labels(manifest.class_names, config.top_k, model),
        classifier=Classifier(
            pool,
            manifest.preprocessing,
            max_pixels=config.max_pixels,
            max_in_flight=max(2, 2 * config.largest_batch(gpu=False)),  # on a GPU too: a quarter of the slots, not all of them
        ),
        readers=Places(sizing.slots_per_front + SPARE_THREADS - _THREADS_FOR_PINGS),
        bodies=BodyMemory(config.body_memory_bytes),
        gauges=gauges,
    )
    return create_app(front)
