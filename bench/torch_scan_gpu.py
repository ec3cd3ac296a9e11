#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""PyTorch's scans on the GPU at the shapes of scan_gpu.cu, as the same JSON lines."""
import json

import torch

SHAPES = [(8, 1024, 64), (8, 4096, 2048), (1, 65536, 1024), (128, 4096, 64), (16, 65536, 64),
          (32768, 2048, 1), (12288, 4096, 1), (1, 1048576, 64), (1, 16777216, 1)]


def milliseconds(function, rounds=10):
    function()
    times = []
    for _ in range(rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return sorted(times)[len(times) // 2]


def main():
    for dtype in (torch.float32, torch.bfloat16):
        for shape in SHAPES:
            x = 0.998 + 0.002 * torch.rand(shape, device="cuda")
            x, g = x.to(dtype), (2 * torch.rand(shape, device="cuda") - 1).to(dtype)
            y = torch.cumprod(x, 1)
            calls = {"cumprod": lambda: torch.cumprod(x, 1, out=y),
                     "cumsum": lambda: torch.cumsum(x, 1, out=y),
                     "logcumsumexp": lambda: torch.logcumsumexp(x, 1, out=y),
                     "cumprod_backward": lambda: torch.ops.aten.cumprod_backward(g, x, 1, y)}
            for name, call in calls.items():
                if name == "cumprod_backward":
                    torch.cumprod(x, 1, out=y)
                print(json.dumps({"peer": f"torch {torch.__version__}", "op": name,
                                  "element": str(dtype).replace("torch.", "").replace("32", ""),
                                  "batch": shape[0], "time": shape[1], "channel": shape[2],
                                  "ms": milliseconds(call)}), flush=True)
            del x, g, y
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
