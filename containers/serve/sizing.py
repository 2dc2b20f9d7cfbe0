"""How many processes, threads and slots, from the settings and what the machine grants."""

from dataclasses import dataclass

from containers.serve.config import ServeConfig

_SLOTS_PER_FRONT = 64  # twice what keeps two cores busy at concurrency 64; 10 MB of photos of 224 pixels
SPARE_THREADS = 16
"""Request threads of a front beyond its slots, so that pings, refusals and slow uploads find one."""
LOADS, UNLOADS = 24, 8
"""Of a multi-model server at once: each holds a request thread of its own until it is done."""


@dataclass(frozen=True, kw_only=True)
class Sizing:
    """`devices[i]` is where model process i computes, with `threads_per_process` threads if that is a CPU."""

    fronts: int
    slots_per_front: int
    devices: tuple[str, ...]
    threads_per_process: int
    spare_threads: int = SPARE_THREADS

    @property
    def slots(self) -> int:
        return self.fronts * self.slots_per_front

    @property
    def invocations(self) -> int:
        """How many a multi-model server passes on at once. One model alone may have half of them, as many as its server takes;
        less while others are busy.
        """
        return 2 * self.slots_per_front

    @property
    def request_threads(self) -> int:
        return self.slots_per_front + self.spare_threads


def derive(config: ServeConfig, cores: int, gpus: int) -> Sizing:
    """On a CPU one model process per core with one thread each, measured 25 to 45 % faster than one process with all cores.

    On a GPU host one model process per GPU. Fronts: one per core, but none without a slot.
    """
    if config.multi_model:  # one front knows which models are loaded; each model is a server of its own behind it
        slots = config.slots or _SLOTS_PER_FRONT
        return Sizing(
            fronts=1,
            slots_per_front=slots,
            devices=(),
            threads_per_process=1,
            spare_threads=slots + SPARE_THREADS + LOADS + UNLOADS,
        )
    fronts = config.fronts or min(cores, config.slots or cores)
    slots_per_front = -(-config.slots // fronts) if config.slots else _SLOTS_PER_FRONT
    on_gpu = config.device == "cuda" or (config.device == "auto" and gpus > 0)
    processes = config.model_processes or (max(gpus, 1) if on_gpu else cores)
    devices = tuple(f"cuda:{n % max(gpus, 1)}" if on_gpu else "cpu" for n in range(processes))
    return Sizing(
        fronts=fronts,
        slots_per_front=slots_per_front,
        devices=devices,
        threads_per_process=1 if on_gpu else max(1, cores // processes),
    )
