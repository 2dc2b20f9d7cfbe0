"""Whether the head learns from features or from photos: all ranks alike, and a run that resumes as it began."""

import os

from containers.train import features, worker
from tests.support.training import events, learned, newest, same, train
from tests.unit.train.killed import EVERY_STEP, killed_after_checkpoint


def test_ranks_of_which_one_lacks_memory_for_features_all_take_photos(job):
    def main(job_file):
        if os.environ["RANK"] == "1":
            features.can_cache = lambda *_: False  # in a forked process of its own
        return worker.main(job_file)

    workers = train(job(), world_size=2, main=main)
    assert not events(workers, "features")


def without_room_for_features(main=worker.main):
    def on_photos(job_file):
        features.can_cache = lambda *_: False  # in a forked process of its own
        return main(job_file)

    return on_photos


def test_a_head_that_was_trained_on_photos_goes_on_so_though_there_is_memory_now(job):
    settings = {"head_epochs": 2, "epochs": 0}
    undisturbed, again = job("undisturbed", **settings), job(**settings, checkpoint_every_seconds=EVERY_STEP)
    train(undisturbed, main=without_room_for_features())
    train(again, main=without_room_for_features(killed_after_checkpoint(2)), expect=-9)
    assert not events(train(again), "features")
    assert same(learned(again), learned(undisturbed))


def test_a_head_that_cannot_go_on_with_features_says_so_and_takes_photos(job):
    again = job(head_epochs=2, epochs=0, checkpoint_every_seconds=EVERY_STEP)
    train(again, main=killed_after_checkpoint(2), expect=-9)
    resumed = train(again, main=without_room_for_features())
    assert not events(resumed, "features")
    assert [line["level"] for line in resumed.lines() if "no memory for the features" in line["event"]] == ["WARNING"]
    assert newest(again)["progress"]["epoch"] == 2
