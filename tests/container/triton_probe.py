"""Runs in the train image built with COMPILE=1: everything of triton's that needs no GPU. Prints JSON.

The driver is a stub that this program compiles: it has every function that triton's two modules call, and says 7 to each
question about the device.
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

FOLDER = Path("/tmp/stub")
KERNEL = """
import triton
import triton.language as tl

@triton.jit
def increase(numbers, count, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(numbers + at, tl.load(numbers + at, mask=at < count) + 1.0, mask=at < count)
"""


def stub(sources: list[str]) -> None:
    """Compile libcuda.so.1 and load it, so that the modules which ask the loader for one of that name get it."""
    called = set(re.findall(r"\b(cu[A-Z]\w+)\b", "\n".join(sources))) - {"cuDeviceGetAttribute"}
    lines = [f"int {name}(void) {{ return 0; }}" for name in sorted(called)]
    lines.append("int cuDeviceGetAttribute(int *answer, int what, int device) { *answer = 7; return 0; }")
    FOLDER.mkdir()
    (FOLDER / "stub.c").write_text("\n".join(lines))
    library = FOLDER / "libcuda.so.1"
    command = [os.environ["CC"], "-shared", "-fPIC", "-O3", "-Wl,-soname,libcuda.so.1", "-o", library, FOLDER / "stub.c"]
    subprocess.run(command, check=True)
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


def probe() -> dict[str, object]:
    import triton
    from torch._inductor.codecache import CacheBase, torch_key
    from torch.utils._triton import has_triton_package
    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia import driver
    from triton.runtime.build import compile_module_from_src

    launcher = driver.make_launcher({}, {"numbers": "*fp32", "count": "i32"}, None)
    stub([(Path(driver.dirname) / "driver.c").read_text(), launcher])
    os.environ["TRITON_LIBCUDA_PATH"] = str(FOLDER)  # on a host with a GPU ldconfig knows the place
    utils = driver.CudaUtils()  # compiles driver.c as a user's job does
    options = {"library_dirs": driver.library_dirs(), "include_dirs": driver.include_dirs, "libraries": driver.libraries}
    module = compile_module_from_src(src=launcher, name="__triton_launcher", **options)
    (FOLDER / "kernels.py").write_text(KERNEL)
    sys.path.insert(0, str(FOLDER))
    from kernels import increase

    signature = {"numbers": "*fp32", "count": "i32", "BLOCK": "constexpr"}
    source = triton.compiler.ASTSource(fn=increase, signature=signature, constexprs={"BLOCK": 128})
    kernels = {
        sm: triton.compile(source, target=GPUTarget("cuda", sm, 32)).asm["cubin"][:4].decode("latin-1") for sm in (75, 86, 90)
    }
    return {
        "version": triton.__version__,
        "wanted": [need.partition(";")[0] for need in importlib.metadata.requires("torch") if need.startswith("triton")],
        "inductor_sees_it": has_triton_package(),
        "inductor_cache_keys": [len(torch_key()), sorted(CacheBase.get_system())],
        "device": utils.get_device_properties(0),
        "launcher": callable(module.launch),
        "kernels": kernels,
    }


with contextlib.redirect_stdout(sys.stderr):
    answer = probe()
print(json.dumps(answer))
