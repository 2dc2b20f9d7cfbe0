"""Who tells what, of a run on two ranks."""


def test_only_rank_0_tells_metrics(undisturbed_pair):
    _, workers = undisturbed_pair
    assert len([line for line in workers.lines(0) if line["event"] == "epoch"]) == 4
    assert not [line for line in workers.lines(1) if line["event"] in ("epoch", "result")]
