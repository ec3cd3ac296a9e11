#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""PyTorch's side of bench/accuracy: the same primitives on the same inputs.

    accuracy_torch.py DIRECTORY      reads cases.json and inputs.bin, writes results.json, results.bin

All numbers in the files are doubles; each case says in which dtype it is computed.
"""
import json
import math
import os
import sys

import numpy as np
import torch
from torch.nn import functional as F


def gradient(function, wanted):
    """d (sum of g * function(inputs)) / d inputs[wanted]; g is the first input."""
    def run(g, *inputs):
        inputs = [x.requires_grad_() for x in inputs]
        return torch.autograd.grad(function(*inputs), inputs[wanted], g)[0]
    return run


def slope(function):
    def run(x):
        return torch.autograd.grad(function(x.requires_grad_()).sum(), x)[0]
    return run


def loop(step, start):
    """state = step(state, inputs at t) along axis 1."""
    def run(*inputs):
        state, states = start(inputs[0][:, 0]), []
        for t in range(inputs[0].shape[1]):
            state = step(state, *(x[:, t] for x in inputs))
            states.append(state)
        return torch.stack(states, 1)
    return run


def linear_dbias(g, x, w):
    bias = torch.zeros_like(w[:, 0]).requires_grad_()
    return torch.autograd.grad(F.linear(x, w, bias), bias, g)[0]


def rms_norm(x, w):
    return w * x / (x.norm(dim=-1, keepdim=True) / math.sqrt(x.shape[-1]) + 1e-6)


def attention(q, k, v, heads=4):
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    p = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), -1)
    return (p @ v).transpose(1, 2).flatten(2)


def cross_entropy_slope(logits, targets):
    return torch.autograd.grad(F.cross_entropy(logits.requires_grad_(), targets.long()), logits)[0]


PRIMITIVES = {
    "cumsum": lambda x: torch.cumsum(x, 1),
    "cumprod": lambda x: torch.cumprod(x, 1),
    "log_cumprod": lambda x: torch.cumsum(torch.log(x), 1),
    "logcumsumexp": lambda x: torch.logcumsumexp(x, 1),
    "linear_scan": loop(lambda h, a, b: a * h + b, torch.zeros_like),
    "log_linear_scan": loop(lambda h, a, b: torch.logaddexp(a + h, b), lambda x: torch.full_like(x, -math.inf)),
    "exp": torch.exp, "log": torch.log, "log1p": torch.log1p, "sigmoid": torch.sigmoid, "tanh": torch.tanh,
    "erf": torch.erf, "gelu": F.gelu, "silu": F.silu,
    "gelu derivative": slope(F.gelu), "silu derivative": slope(F.silu),
    "linear": F.linear,
    "linear dx": gradient(F.linear, 0), "linear dw": gradient(F.linear, 1),
    "linear dbias": linear_dbias,
    "rms_norm": rms_norm, "rms_norm dx": gradient(rms_norm, 0),
    "cross_entropy": lambda logits, targets: F.cross_entropy(logits, targets.long()),
    "cross_entropy dlogits": cross_entropy_slope,
    "attention": attention,
}


def main():
    directory = sys.argv[1]
    with open(os.path.join(directory, "cases.json"), encoding="utf-8") as file:
        cases = json.load(file)
    data = np.fromfile(os.path.join(directory, "inputs.bin"), dtype=np.float64)
    results, sizes = [], []
    for case in cases:
        dtype = getattr(torch, case["dtype"])
        inputs = []
        for shape in case["shapes"]:
            count = math.prod(shape)
            inputs.append(torch.from_numpy(data[:count].copy()).reshape(shape).to(dtype))
            data = data[count:]
        result = PRIMITIVES[case["primitive"]](*inputs).detach().double().reshape(-1).numpy()
        sizes.append(len(result))
        results.append(result)
    np.concatenate(results).tofile(os.path.join(directory, "results.bin"))
    with open(os.path.join(directory, "results.json"), "w", encoding="utf-8") as file:
        json.dump({"version": torch.__version__, "sizes": sizes}, file)


if __name__ == "__main__":
    main()
