"""How fast training is, against what it could be: issue 3's table, both sides of each row interleaved in one run.

    python -m benchmarks.training                 every row, minutes to an hour on two cores; writes benchmarks/results/
    python -m benchmarks.training --only head     rows whose name contains this word

Each row is the median of paired ratios. A row counts only where the same side measured twice (A–A) differs by less than
10 %; otherwise it is marked "busy". The ratio of CPU seconds stands beside it: other programs disturb it less.
"""
