"""Faults on purpose, from a seeded schedule: the same seed breaks the same things in the same order.

What must hold, whatever happens (each is checked after every event that can break it):

I1  A program that lost a part of itself ends or recovers by itself, in bounded time, and nothing it started outlives it.
I2  Training's exit code is documented: 0 or 75 when it was asked to stop, 75 when a peer was lost, else that of the cause,
    whose text is in the failure file: UTF-8, within 1024 bytes, starting with the kind of error.
I3  A model directory with a manifest is whole: every file has the SHA-256 that the manifest says. One that is not is refused
    by whoever loads it, by name.
I4  `latest.json` names a checkpoint that is there and has the SHA-256 it says; so the next start resumes. Where a disk or a
    copy damaged it, it is rejected by name and the one before is used.
I5  However often it was interrupted, training ends with the very weights of the run nobody disturbed, at the same number of
    ranks. Where the number of ranks changes on the way, every photo still counts exactly once in every epoch.
I6  A server answers every request: 200 with the same probabilities as before, or an error it means; and is ready again.
I7  Whatever the network does to deploy: an object in the bucket is one of our files, whole, or not there; a command ends, with
    success or with an error that says where and what to try; and run again often enough it succeeds and has nothing left to do.
I8  The wall clock is for people. Whether it jumps a day ahead or an hour back, nothing waits longer, gives up sooner, saves
    more often, or learns something else.
I9  A disk that fills up costs what does not fit: a checkpoint, or the model until there is room. The job says so, what was
    committed before stays whole, and the next start with room ends as if nothing had been.
I10 A layer whose bytes are not those of its digest never runs: pulling it fails, and says so.
"""
