"""A child of the server that is late to say with whom it wants to die."""

import subprocess
import sys

import pytest

PROGRAM = """
import os, sys, time
from containers.serve import process
parent = os.getpid()
if os.fork():
    os._exit(0)
while os.getppid() == parent:
    time.sleep(0.01)
process.become("late", parent if sys.argv[1] == "gone" else os.getppid())
print("lives on", flush=True)
"""


@pytest.mark.parametrize(("parent", "said"), [("gone", ""), ("there", "lives on\n")])
def test_a_child_whose_parent_died_before_it_could_ask_ends_too(parent: str, said: str):
    done = subprocess.run([sys.executable, "-c", PROGRAM, parent], stdout=subprocess.PIPE, text=True, timeout=120)
    assert done.stdout == said  # the pipe closes with the last that holds it
