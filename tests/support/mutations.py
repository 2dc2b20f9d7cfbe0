"""Damage to the bytes of a photo, reproducible from a seeded random.Random."""

import random


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Flipped bytes, a cut, a hole, a repeated part, or garbage in the middle."""
    start, end = sorted(chance.sample(range(len(data) + 1), 2))
    kind = chance.randrange(5)
    if kind == 0:
        damaged = bytearray(data)
        for _ in range(chance.randint(1, 20)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        return bytes(damaged)
    if kind == 1:
        return data[:start]
    if kind == 2:
        return data[:start] + data[end:]
    if kind == 3:
        return data[:end] + data[start:]
    return data[:start] + chance.randbytes(end - start) + data[end:]
