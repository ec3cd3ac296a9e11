#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""PyTorch's scans on the GPU at the shapes of scan_gpu.cu, as the same JSON lines: its operators, and
linear_scan as a compiled associative_scan."""
import torch
from torch._higher_order_ops.associative_scan import associative_scan

from support.torch_gpu import milliseconds, report, uniform

SHAPES = [(8, 1024, 64), (8, 4096, 2048), (1, 65536, 1024), (128, 4096, 64), (16, 65536, 64),
          (32768, 2048, 1), (12288, 4096, 1), (1, 1048576, 64), (1, 16777216, 1)]


def gates(shape, dtype):
    return (0.998 + 0.002 * torch.rand(shape, device="cuda")).to(dtype)


def case(op, shape, dtype):
    return {"op": op, "element": str(dtype).replace("torch.", "").replace("32", ""),
            "batch": shape[0], "time": shape[1], "channel": shape[2]}


def operators(shape, dtype):
    x, g = gates(shape, dtype), uniform(1, *shape, dtype=dtype)
    y = torch.cumprod(x, 1)
    calls = {"cumprod": lambda: torch.cumprod(x, 1, out=y),
             "cumsum": lambda: torch.cumsum(x, 1, out=y),
             "logcumsumexp": lambda: torch.logcumsumexp(x, 1, out=y),
             "cumprod_backward": lambda: torch.ops.aten.cumprod_backward(g, x, 1, y)}
    for name, call in calls.items():
        if name == "cumprod_backward":
            torch.cumprod(x, 1, out=y)
        report(case(name, shape, dtype), milliseconds(call, rounds=10))


def compiled(shape, dtype):
    def after(first, second):
        return first[0] * second[0], second[0] * first[1] + second[1]

    @torch.compile
    def linear_scan(a, b):
        return associative_scan(after, (a, b), dim=1)[1]

    a, b = gates(shape, dtype), uniform(1, *shape, dtype=dtype)
    this = {**case("linear_scan", shape, dtype), "how": "associative_scan"}
    try:
        with torch.no_grad():
            ms = milliseconds(lambda: linear_scan(a, b), rounds=10)
    except Exception as error:  # the compiler's own, of several kinds
        report(this, None, error=str(error).splitlines()[0])
    else:
        report(this, ms)
    torch._dynamo.reset()


def main():
    for measure in (operators, compiled):
        for dtype in (torch.float32, torch.bfloat16):
            for shape in SHAPES:
                measure(shape, dtype)
                torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
