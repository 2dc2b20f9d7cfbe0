"""What names of instance types tell, on EC2 and on SageMaker alike."""

import pytest

from deploy.instance_types import has_gpu, has_own_disk


@pytest.mark.parametrize("prefix", ["", "ml."])
def test_which_types_have_gpus(prefix):
    assert all(has_gpu(prefix + kind) for kind in ("g4dn.2xlarge", "g5.xlarge", "g6e.xlarge", "gr6.4xlarge", "p4de.24xlarge"))
    assert not any(has_gpu(prefix + kind) for kind in ("c6i.large", "m5.large", "g4ad.xlarge", "t3.large"))


@pytest.mark.parametrize("prefix", ["", "ml."])
def test_which_types_have_a_disk_of_their_own(prefix):
    """It takes no volume key: SageMaker refuses the request, for training and for an endpoint alike."""
    gpus = ("g4dn.xlarge", "g5.xlarge", "g6e.xlarge", "gr6.4xlarge", "g7e.2xlarge")
    larger = ("p3dn.24xlarge", "p4d.24xlarge", "p5en.48xlarge", "p6-b200.48xlarge", "p6e-gb200.36xlarge", "trn1.2xlarge")
    own = (*gpus, *larger, "m5d.large", "c6id.large", "m6gd.large", "r7gd.large")
    assert all(has_own_disk(prefix + kind) for kind in own)
    assert not any(has_own_disk(prefix + kind) for kind in ("m5.large", "c5.xlarge", "p3.2xlarge", "p2.xlarge"))
