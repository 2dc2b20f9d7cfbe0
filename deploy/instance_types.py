"""What an instance type's name tells, with SageMaker's `ml.` in front or without."""

import re

# Families with NVIDIA devices are g3…g6e, gr6 and p2…p6; g4ad's are AMD's
_GPU = re.compile(r"(ml\.)?(?!g4ad)(gr?[3-9]|p[2-9])")
# Types whose disk is their own: SageMaker takes no volume size and no volume key for them, it is encrypted in hardware
# (API reference: ResourceConfig of training, KmsKeyId of CreateEndpointConfig)
_OWN_DISK = re.compile(
    r"(ml\.)?(g4dn|g5|gr?6[ef]?|g7e?|p3dn|p4de?|p5(e|en)?|p6e?-[a-z0-9]+|dl1|trn[0-9]n?|[a-z]+[0-9]+[agi]?d)\."
)


def has_gpu(instance_type: str) -> bool:
    return _GPU.match(instance_type) is not None


def has_own_disk(instance_type: str) -> bool:
    return _OWN_DISK.match(instance_type) is not None
