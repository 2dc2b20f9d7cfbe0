"""Runs in the train image built with COMPILE=1: all that compiling for a GPU does before the GPU is asked. Prints JSON.

The driver is a stub that this program compiles: functions that say 0 for success, and ANSWER to each question about the device.
torch.cuda is told that it has a T4; its own runtime is never called, and no kernel runs.
"""

import contextlib
import ctypes
import importlib.metadata
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

FOLDER = Path("/tmp/stub")
ANSWER = 65536
KERNEL = """
import triton
import triton.language as tl

@triton.jit
def increase(numbers, count, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(numbers + at, tl.load(numbers + at, mask=at < count) + 1.0, mask=at < count)
"""
T4 = SimpleNamespace(
    name="T4",
    major=7,
    minor=5,
    multi_processor_count=40,
    regs_per_multiprocessor=65536,
    max_threads_per_multi_processor=1024,
    warp_size=32,
    total_memory=16 * 2**30,
    shared_memory_per_block_optin=65536,
    gcnArchName="",
)


def stub(sources: str) -> None:
    """Compile libcuda.so.1 and load it, so that the modules which ask the loader for one of that name get it."""
    asking = {"cuDeviceGetAttribute": ANSWER, "cuFuncGetAttribute": 0}
    called = {*re.findall(r"\b(cu[A-Z]\w+)\b", sources), "cuModuleLoad"} - asking.keys()  # the last one is torch's launcher's
    lines = [f"int {name}(void) {{ return 0; }}" for name in sorted(called)]
    lines += [f"int {name}(int *to, int what, void *of) {{ *to = {value}; return 0; }}" for name, value in asking.items()]
    FOLDER.mkdir()
    (FOLDER / "stub.c").write_text("\n".join(lines))
    library = FOLDER / "libcuda.so.1"
    command = [os.environ["CC"], "-shared", "-fPIC", "-O3", "-Wl,-soname,libcuda.so.1", "-o", library, FOLDER / "stub.c"]
    subprocess.run(command, check=True)
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    os.environ["TRITON_LIBCUDA_PATH"] = str(FOLDER)  # on a host with a GPU ldconfig knows the place


def with_triton() -> dict[str, Any]:
    """Its two C modules, the second with a launcher for one kernel; and that kernel for three kinds of GPU."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia import driver
    from triton.runtime.build import compile_module_from_src

    launcher = driver.make_launcher({}, {"numbers": "*fp32", "count": "i32"}, None)
    stub((Path(driver.dirname) / "driver.c").read_text() + launcher)
    utils = driver.CudaUtils()  # compiles driver.c, as a job does
    options = {"library_dirs": driver.library_dirs(), "include_dirs": driver.include_dirs, "libraries": driver.libraries}
    module = compile_module_from_src(src=launcher, name="__triton_launcher", **options)
    (FOLDER / "kernels.py").write_text(KERNEL)
    sys.path.insert(0, str(FOLDER))
    from kernels import increase

    signature = {"numbers": "*fp32", "count": "i32", "BLOCK": "constexpr"}
    source = triton.compiler.ASTSource(fn=increase, signature=signature, constexprs={"BLOCK": 128})
    kernels = {sm: triton.compile(source, target=GPUTarget("cuda", sm, 32)).asm["cubin"] for sm in (75, 86, 90)}
    return {
        "version": triton.__version__,
        "wanted": [need.partition(";")[0] for need in importlib.metadata.requires("torch") or [] if need.startswith("triton")],
        "device": utils.get_device_properties(0),
        "launcher": callable(module.launch),
        "kernels": {sm: cubin[:4].decode("latin-1") for sm, cubin in kernels.items()},
    }


def pretend() -> None:
    """What inductor asks torch.cuda for, and the guards that would call CUDA's runtime."""
    import torch

    class Guard(contextlib.nullcontext):
        def __init__(self, *_: object) -> None:
            super().__init__()

    answers = {
        "is_available": True,
        "device_count": 1,
        "current_device": 0,
        "get_device_properties": T4,
        "get_device_capability": (7, 5),
        "synchronize": None,
        "set_device": None,
        "get_rng_state": torch.zeros(16, dtype=torch.uint8),
        "set_rng_state": None,
        "_lazy_init": None,
    }
    for name, value in answers.items():
        setattr(torch.cuda, name, lambda *_, value=value: value)
    torch.cuda.device = torch.cuda._DeviceGuard = Guard
    from torch._dynamo.device_interface import CudaInterface  # which keeps what torch.cuda has when it is imported

    CudaInterface.exchange_device = CudaInterface.maybe_exchange_device = staticmethod(lambda _: 0)


def with_inductor() -> dict[str, Any]:
    """A small network's pass, loss and a gradient, from a graph of tensors without memory to a module that is loaded."""
    pretend()
    import torch
    from torch._guards import TracingContext, tracing
    from torch._inductor import codecache, config, cpp_builder
    from torch._inductor.compile_fx import compile_fx_inner
    from torch._inductor.decomposition import select_decomp_table
    from torch._subclasses import fake_tensor
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.nn import functional

    fake_tensor.init_gpu_context = lambda _: None
    config.compile_threads = 1
    written: list[str] = []
    write = codecache.PyCodeCache.write
    codecache.PyCodeCache.write = lambda source, *more, **options: (written.append(source), write(source, *more, **options))[1]
    wanted: list[str] = []

    class NoBuilder:
        def __init__(self, *_: object, **options: object) -> None:
            wanted.append(str(options.get("name")))
            raise RuntimeError("inductor wants a C++ compiler")

    codecache.CppBuilder = cpp_builder.CppBuilder = NoBuilder
    mode = fake_tensor.FakeTensorMode(allow_non_fake_inputs=True)

    def on_gpu(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return fake_tensor.FakeTensor(mode, torch.empty(*shape, dtype=dtype, device="meta"), torch.device("cuda:0"))

    def step(photos: Any, answers: Any, kernel: Any, scale: Any, shift: Any, head: Any) -> Any:
        features = functional.conv2d(photos.half(), kernel.half(), stride=2).float()
        features = functional.batch_norm(features, None, None, scale, shift, training=True)
        logits = functional.linear(functional.relu(features).mean((2, 3)), head)
        return functional.cross_entropy(logits, answers), head - 0.1 * torch.softmax(logits, 1).t().mm(features.mean((2, 3)))

    inputs = [on_gpu(8, 3, 64, 64), on_gpu(8, dtype=torch.int64), on_gpu(16, 3, 3, 3), on_gpu(16), on_gpu(16), on_gpu(4, 16)]
    with mode, torch.no_grad():
        graph = make_fx(step, decomposition_table=select_decomp_table())(*inputs)
    with tracing(TracingContext(mode)):
        compile_fx_inner(graph, inputs)
    return {
        "modules": len(written),
        "triton": sum(source.count("async_compile.triton(") for source in written),
        "cpp": sum(source.count("async_compile.cpp") for source in written),
        "wanted": wanted,
    }


with contextlib.redirect_stdout(sys.stderr):
    found = {"triton": with_triton(), "inductor": with_inductor()}
print(json.dumps(found))
