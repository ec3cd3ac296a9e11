#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Times PyTorch's scans: one request per line of standard input, as bench/scan --serve answers them.

    name batch time channel threads repeats  ->  seconds per call
    repeats 0                                ->  the number of calls that fill a millisecond
"""
import sys
import time

import torch


def calls(name, shape):
    """The operator on preallocated arrays where PyTorch lets us (out=), backward without the forward."""
    generator = torch.Generator().manual_seed(1)
    x = 0.98 + 0.04 * torch.rand(shape, generator=generator)
    g = 2 * torch.rand(shape, generator=generator) - 1
    if name in ("cumprod", "cumsum", "logcumsumexp"):
        function, out = getattr(torch, name), torch.empty_like(x)

        def forward():
            with torch.no_grad():
                function(x, 1, out=out)

        return forward
    if name == "cumprod_backward":
        y = torch.cumprod(x, 1)

        def backward():
            torch.ops.aten.cumprod_backward(g, x, 1, y)

        return backward
    if name == "logcumsumexp_backward":
        x.requires_grad_()
        y = torch.logcumsumexp(x, 1)

        def backward():
            torch.autograd.grad(y, x, g, retain_graph=True)

        return backward
    return None


def seconds(function, repeats):
    start = time.perf_counter()
    for _ in range(repeats):
        function()
    return time.perf_counter() - start


def main():
    cached, function = None, None
    for line in sys.stdin:
        words = line.split()
        if len(words) != 6:
            print("error: expected: name batch time channel threads repeats", flush=True)
            continue
        name, shape = words[0], tuple(map(int, words[1:4]))
        threads, repeats = int(words[4]), int(words[5])
        torch.set_num_threads(threads)
        if cached != (name, shape):
            cached, function = (name, shape), calls(name, shape)
        if function is None:
            print(f"error: unknown operation {name}", flush=True)
            continue
        function()
        if repeats == 0:
            repeats = 1
            while (spent := seconds(function, repeats)) < 2.5e-4:
                repeats *= 2
            print(max(1, round(repeats * 1e-3 / spent)), flush=True)
        else:
            print(seconds(function, repeats) / repeats, flush=True)


if __name__ == "__main__":
    main()
