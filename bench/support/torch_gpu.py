# SPDX-License-Identifier: Apache-2.0
"""How the torch_*_gpu.py peers time, report, and fill their arrays."""
import json

import torch

LARGE_MS, WARM_UP_MS = 0.1, 200


def milliseconds(function, rounds=20):
    """Median of means, timed by events of the device."""
    def timed(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(repeats):
            function()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / repeats

    timed(3)
    once = timed(3)
    repeats = min(200, max(1, int(2 / once)))
    if LARGE_MS <= once <= WARM_UP_MS:  # to the speed that the power allows, as in linear_gpu.cu
        timed(int(WARM_UP_MS / once))
    return sorted(timed(repeats) for _ in range(rounds))[rounds // 2]


def report(case, ms, **more):
    print(json.dumps({"peer": f"torch {torch.__version__}", **case, "ms": ms, **more}), flush=True)


def uniform(size, *shape, dtype):
    """In (-size, size), every bit of the mantissa random, as the *_gpu.cu have it: a large product
    runs as fast as the power allows, which depends on the bits (torch.rand in bfloat16 leaves most 0)."""
    return (size * (2 * torch.rand(shape, device="cuda") - 1)).to(dtype)


def backward_of(output, inputs, gradient):
    """The backward pass alone, again and again."""
    return lambda: torch.autograd.grad(output, inputs, gradient, retain_graph=True)
