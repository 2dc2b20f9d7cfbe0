"""Which driver an image gets."""

import pytest

from deploy.errors import DeployError
from deploy.serving import inference_ami


@pytest.mark.parametrize(
    ("instance_type", "cuda", "ami"),
    [
        ("ml.g4dn.xlarge", "12.8", "al2-ami-sagemaker-inference-gpu-3-1"),
        ("ml.g5.xlarge", "13.0", "al2023-ami-sagemaker-inference-gpu-4-1"),
        ("ml.p3.2xlarge", "11.8", None),
        ("ml.c5.xlarge", "12.8", None),
        ("ml.m5.xlarge", "none", None),
    ],
)
def test_the_machine_image_follows_from_the_cuda_inside(instance_type, cuda, ami):
    assert inference_ami(instance_type, cuda) == ami


@pytest.mark.parametrize(("cuda", "says"), [("none", "has no CUDA"), ("14.1", "no endpoint machine image is known")])
def test_what_would_hang_without_a_log_is_refused(cuda, says):
    with pytest.raises(DeployError, match=says):
        inference_ami("ml.g4dn.xlarge", cuda)
