"""Faults on purpose, from a seeded schedule: the same seed breaks the same things in the same order.

What must hold, whatever happens (each is checked after every event):

I1  A program that lost a part of itself ends or recovers by itself, in bounded time, and nothing it started outlives it.
I2  Training's exit code is documented: 0 or 75 when it was asked to stop, else that of the cause, whose text is in the
    failure file: UTF-8, within 1024 bytes, starting with the kind of error.
I3  A model directory with a manifest is whole: every file has the SHA-256 that the manifest says.
I4  `latest.json` names a checkpoint that is there and has the SHA-256 it says; so the next start resumes.
I5  However often it was interrupted, training ends with the very weights of the run nobody disturbed.
I6  A server answers every request: 200 with the same probabilities as before, or an error it means; and is ready again.
"""
