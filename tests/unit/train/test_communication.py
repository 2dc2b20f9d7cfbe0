import torch

from containers.train.communication import CommunicationClock


def test_the_time_of_an_epoch_holds_what_a_gpu_still_computes(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    gpu = torch.device("cuda", 1)
    assert CommunicationClock(gpu, compress=False).take_seconds() == 0
    assert CommunicationClock(torch.device("cpu"), compress=False).take_seconds() == 0
    assert waited == [gpu]
