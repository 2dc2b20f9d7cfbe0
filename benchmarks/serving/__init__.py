"""Kennel's server against its peers and against the in-process limit: same model, same photos, same machine, interleaved.

python -m benchmarks.serving            the table of claims, about 40 minutes on a quiet machine
python -m benchmarks.serving --quick    the same path with short windows, to see that it works; no claim rests on it
"""
