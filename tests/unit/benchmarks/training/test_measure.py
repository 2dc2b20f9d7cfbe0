import math
import os
import re
import subprocess
import sys
import time

import pytest
import torch

from benchmarks.training.__main__ import report
from benchmarks.training.gpu import against_tensors, loops
from benchmarks.training.measure import Load, Row, interleaved, own_cpu, peak_rss_mb, successive, timed
from benchmarks.training.rows import CLAIMS, ROWS


def row(value, *, spread=0.01, lower=False):
    goal, floor = (0.3, 1.0) if lower else (0.97, 0.93)
    return Row(name="a claim", value=value, goal=goal, floor=floor, spread=spread, detail="d", lower=lower)


@pytest.mark.parametrize(
    ("value", "lower", "verdict"),
    [(0.98, False, "goal"), (0.97, False, "goal"), (0.95, False, "floor"), (0.92, False, "missed"),
     (0.2, True, "goal"), (0.9, True, "floor"), (1.1, True, "missed"), (None, False, "not measured")],
)  # fmt: skip
def test_a_verdict_is_by_goal_and_floor(value, lower, verdict):
    assert row(value, lower=lower).verdict(Load()) == verdict


@pytest.mark.parametrize(
    ("spread", "foreign", "verdict"),
    [(0.099, 0.099, "goal"),
     (0.10, 0.0, "does not count: A–A pairs differ too much"),
     (0.0, 0.10, "does not count: others used too much of the CPU"),
     (0.2, 0.5, "does not count: A–A pairs differ too much, others used too much of the CPU")],
)  # fmt: skip
def test_a_disturbed_row_does_not_count_and_says_why(spread, foreign, verdict):
    found = row(2.0, spread=spread)
    assert found.verdict(Load(foreign=foreign)) == verdict
    assert row(None, spread=spread).verdict(Load(foreign=foreign)) == "not measured"
    page = report([(found, Load(foreign=foreign)), (row(2.0), Load())], "where")
    assert f"| {spread:.1%} | {foreign:.0%} | {verdict} | d |" in page
    assert "| 1.0% | 0% | goal | d |" in page
    assert f"not measured: {'not chosen' if torch.cuda.is_available() else 'no GPU'}" in page


def test_a_row_without_a_goal_is_told_as_it_is_and_said_to_be_missing_only_where_it_is():
    found = Row(name=CLAIMS["gpu"][0], value=0.8, goal=math.nan, floor=math.nan, spread=0.01, detail="a T4")
    assert found.verdict(Load()) == "no goal"
    page = report([(found, Load())], "where")
    assert f"| {found.name} | 0.8 |  |  | 1.0% | 0% | no goal | a T4 |" in page
    assert "not measured" not in page


def test_the_rows_of_a_gpu_run_as_far_as_a_cpu_can():
    found, details = against_tensors(1, "cpu", batch=2, steps=2, loaders=2, architecture="mobilenet_v3_small", image_size=32)
    assert all(found.ratio("tensors", side) > 0 for side in ("ours", "loaders", "memory"))
    rate, waits = r"\d+ photos/s of \d+; ", r"loader processes( through pipes)?, \d+% of the time waits for photos"
    assert re.fullmatch(rf"cpu, float32, batch 2: {rate}\d {waits}", details["ours"])
    assert re.fullmatch(rf"{rate}2 {waits}", details["loaders"])
    assert re.fullmatch(
        rf"{rate}\d+\.\d ms a step, of which the device computes \d+\.\d; most of its own time: (.+? \d+%(, |$)){{4}}",
        details["memory"],
    )


def test_loops_in_both_half_precisions_say_what_each_computes():
    found, detail = loops(1, "cpu", photos=8, smallest=2, architecture="mobilenet_v3_small", image_size=32)
    assert found.ratio("bfloat16, batch 2", "float16, batch 2") > 0
    named = [f"{half}, batch {size}" for size in (2, 4, 8) for half in ("bfloat16", "float16")]
    named += [f"{half}, batch 2, contiguous" for half in ("bfloat16", "float16")]
    assert re.fullmatch("cpu, photos/s: " + "; ".join(rf"{name}: \d+" for name in named), detail)


def test_sides_take_turns_and_the_first_comes_again():
    calls = []
    found = interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2)
    assert calls == ["a", "b", "a", "b", "a", "a", "b", "a"]
    assert {len(found.wall["a"]), len(found.wall["b"]), len(found.cpu["a"]), len(found.again)} == {2}


def test_ratios_are_of_the_same_round():
    found = interleaved({"a": lambda: None, "b": lambda: None}, 3)
    found.wall.update(a=[1.0, 2.0, 4.0], b=[2.0, 4.0, 8.8])
    found.again[:] = [1.0, 2.2, 4.0]
    assert found.ratio("b", "a") == 2.0
    assert found.spread == 0.0
    assert successive([1.0, 2.0, 2.0]) == pytest.approx(0.25)


def test_cpu_seconds_include_those_of_child_processes():
    busy = "import time\nwhile time.process_time() < 0.5: pass"
    wall, cpu = timed(lambda: subprocess.run([sys.executable, "-c", busy], check=True))
    assert wall >= 0.4
    assert cpu >= 0.4
    began = own_cpu()
    with subprocess.Popen([sys.executable, "-c", busy + "\ntime.sleep(60)"]) as alive:
        deadline = time.monotonic() + 60
        while own_cpu() - began < 0.4 and time.monotonic() < deadline:
            time.sleep(0.05)
        spent = own_cpu() - began
        alive.kill()
    assert spent >= 0.4


def test_peak_memory_is_of_the_process_and_its_children():
    own = peak_rss_mb(os.getpid())
    with subprocess.Popen([sys.executable, "-c", "import time; x = bytes(1 << 20); print(len(x), flush=True); time.sleep(60)"],
                          stdout=subprocess.PIPE) as child:  # fmt: skip
        child.stdout.readline()
        both = peak_rss_mb(os.getpid())
        child.kill()
    assert both > own + 4


def test_every_claim_of_the_issue_has_a_row_that_measures_it():
    beside_gpu = {"gpu loaders", "gpu memory"}
    assert set(CLAIMS) == {
        "memory", "loader", "compute", "cost", "scaling", "head", "stop", "gpu", "precision", "compile", *beside_gpu,
    }  # fmt: skip
    assert set(ROWS) == set(CLAIMS) - {"memory"} - beside_gpu, "compute and gpu measure several rows"
