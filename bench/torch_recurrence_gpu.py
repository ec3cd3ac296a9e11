#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What recurrence_gpu.cu is compared with, at its shapes, as JSON lines: the TorchScript loop that the
reference model runs, and cuDNN's GRU of the same size. A backward pass is both together less the forward pass."""
import torch

from support.torch_gpu import milliseconds, report, uniform
from support.torch_model import recurrence

SHAPES = [(1, 1024, 512), (8, 1024, 512), (8, 2048, 1024), (32, 2048, 1024)]


def measure(how, shape, element, forward, leaves, gradient):
    def both():
        torch.autograd.grad(forward(), leaves, gradient)

    case = {"how": how, "element": element, "batch": shape[0], "time": shape[1], "width": shape[2]}
    with torch.no_grad():
        report({"op": "forward", **case}, milliseconds(forward, rounds=5))
    try:
        ms = milliseconds(both, rounds=3) - milliseconds(forward, rounds=3)
    except RuntimeError as error:  # too little memory
        report({"op": "backward", **case}, None, error=str(error).splitlines()[0])
    else:
        report({"op": "backward", **case}, ms)


def main():
    torch.backends.cudnn.allow_tf32 = False
    for dtype, element in ((torch.float32, "float"), (torch.bfloat16, "bfloat16")):
        for shape in SHAPES:
            batch, time, d = shape
            g, z = uniform(1, *shape, dtype=dtype), uniform(1, *shape, dtype=dtype).requires_grad_()
            gru = torch.nn.GRU(d, d, batch_first=True, device="cuda", dtype=dtype)
            measure("GRU", shape, element, lambda: gru(z)[0], [z, *gru.parameters()], g)
            if element == "float":
                bound = d ** -0.5
                gamma = (0.3 + 0.4 * torch.rand(shape, device="cuda")).requires_grad_()
                weights = [uniform(size, *of, dtype=dtype).requires_grad_()
                           for size, of in ((bound, (d, d)), (bound, (d,)), (bound / 2 ** 0.5, (d, 2 * d)),
                                            (bound / 2 ** 0.5, (d,)))]
                start = torch.zeros(batch, 1, d, device="cuda")
                measure("TorchScript", shape, element, lambda: recurrence(z, gamma, start, *weights, 0.1),
                        [z, gamma, *weights], g)
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
