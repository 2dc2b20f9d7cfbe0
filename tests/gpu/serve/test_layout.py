"""The precision and the memory layout of the engine's forward pass, seen from inside."""

import torch

from containers.core import accelerator, artifact
from containers.serve.engines import eager


def test_every_convolution_is_in_half_precision_and_channels_last(resnet, gpu):
    found = accelerator.detect("cuda")
    expected = torch.bfloat16 if torch.cuda.get_device_capability(gpu) >= (8, 0) else torch.float16
    assert found.amp_dtype is expected
    model = artifact.load(resnet.model_dir).build()
    seen: list[tuple[torch.dtype, torch.dtype, bool, bool]] = []

    def look(module, inputs, output) -> None:
        layouts = [tensor.is_contiguous(memory_format=torch.channels_last) for tensor in (module.weight, output)]
        seen.append((module.weight.dtype, output.dtype, *layouts))

    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(look)
    forward = eager._forward(model, resnet.facts, found)
    with torch.inference_mode():
        answers = forward(torch.from_numpy(resnet.pixels[:8]).to(gpu))
    assert len(seen) == 53  # of a ResNet-50
    assert set(seen) == {(expected, expected, True, True)}
    assert (answers.dtype, answers.device) == (torch.float32, gpu)
