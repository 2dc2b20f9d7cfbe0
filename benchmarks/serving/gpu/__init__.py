"""Kennel's server on one GPU against what the same machine does without a server; needs nothing that is not in the image.

python -m benchmarks.serving.gpu                               three rounds, about four minutes
python -m benchmarks.serving.gpu --rounds 2 --seconds 1.2      under two minutes
"""
