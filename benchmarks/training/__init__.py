"""How fast training is, against what it could be: issue 3's table, both sides of each row interleaved in one run.

    python -m benchmarks.training                 every row, 15 to 20 minutes on two quiet cores; writes benchmarks/results/
    python -m benchmarks.training --only head     these rows only

Each row is the median of paired ratios. A row counts only where the same side measured twice (A–A) differs by less than
10 %, and others used less than 10 % of the machine's CPU. The ratio of CPU seconds stands beside it: other programs disturb it
less.
"""
