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


def with_gradients(name, function, wanted):
    """{name: the function, name + suffix: the gradient of an input}; all get g and the inputs."""
    return {name: lambda g, *inputs: function(*inputs),
            **{name + suffix: gradient(function, i) for suffix, i in wanted.items()}}


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


def double_backward(wanted):
    """The gradient that the gradients da and db of linear_scan, weighted by va and vb, have on dh, a or b."""
    def run(g, a, b, va, vb):
        inputs = [x.requires_grad_() for x in (g, a, b)]
        da, db = torch.autograd.grad(linear_scan(a, b), (a, b), g, create_graph=True)
        return torch.autograd.grad((da * va + db * vb).sum(), inputs[wanted])[0]
    return run


def linear_dbias(g, x, w):
    bias = torch.zeros_like(w[:, 0]).requires_grad_()
    return torch.autograd.grad(F.linear(x, w, bias), bias, g)[0]


def rms_norm(x, w):
    return w * x / (x.norm(dim=-1, keepdim=True) / math.sqrt(x.shape[-1]) + 1e-6)


def embedding_gradient(g, ids):
    return torch.zeros(7, g.shape[1], dtype=g.dtype).index_add_(0, ids.long(), g)


def attention(q, k, v, heads=4):
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    p = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), -1)
    return (p @ v).transpose(1, 2).flatten(2)


def recurrence(z, gamma, block, block_bias, mix_weights, mix_bias, initial, mix=0.1):
    p, states = initial, []
    for t in range(z.shape[1]):
        s = torch.sigmoid(F.linear(p, block, block_bias))
        m = torch.sigmoid(F.linear(torch.cat([z[:, t], p], -1), mix_weights, mix_bias))
        p = z[:, t] * (s + mix * m) + p * ((1 + mix) * gamma[:, t] + mix * (1 - m))
        states.append(p)
    return torch.stack(states, 1)


def decay(activation):
    def branch(x, w0, b0, w2, b2):
        return torch.sigmoid(F.linear(activation(F.linear(x, w0, b0)), w2, b2))

    def run(*inputs):
        gamma = branch(*inputs[:5])
        return (gamma * branch(*inputs[5:]) if len(inputs) > 5 else gamma).clamp(1e-6, 1 - 1e-6)
    return run


def integrate(z, p, gamma, w, bias):
    gate = torch.sigmoid(F.linear(torch.cat([z, p], -1), w, bias))
    return (1 - gate) * p + gate * z + gamma * p


def hds_top(bank):
    def pool(level):
        return level.unflatten(1, (level.shape[1] // 4, 4)).mean(2)
    return pool(pool(bank))


def adamw(wanted):
    def run(w, g, m, v):
        parameter = torch.nn.Parameter(w)
        optimizer = torch.optim.AdamW([parameter], lr=1e-2, weight_decay=0.1)
        parameter.grad = g
        optimizer.state[parameter] = {"step": torch.tensor(9.0), "exp_avg": m, "exp_avg_sq": v}
        optimizer.step()
        return (parameter, m, v)[wanted]
    return run


def cross_entropy_slope(logits, targets):
    return torch.autograd.grad(F.cross_entropy(logits.requires_grad_(), targets.long()), logits)[0]


def cumprod(x):
    return torch.cumprod(x, 1)


def log_cumprod(x):
    return torch.cumsum(torch.log(x), 1)


def logcumsumexp(x):
    return torch.logcumsumexp(x, 1)


linear_scan = loop(lambda h, a, b: a * h + b, torch.zeros_like)
log_linear_scan = loop(lambda h, a, b: torch.logaddexp(a + h, b), lambda x: torch.full_like(x, -math.inf))
compound = loop(lambda h, x: h + x + h * x, torch.zeros_like)
OF_RECURRENCE = {" dz": 0, " dz, parallel": 0, " dgamma": 1, " dblock": 2, " dblock_bias": 3, " dmix": 4,
                 " dmix_bias": 5, " dinitial": 6}
PRIMITIVES = {
    "cumsum": lambda x: torch.cumsum(x, 1), "cumsum dx": gradient(lambda x: torch.cumsum(x, 1), 0),
    "cumprod": cumprod, "cumprod dx": gradient(cumprod, 0),
    "log_cumprod": log_cumprod, "log_cumprod dx": gradient(log_cumprod, 0),
    "logcumsumexp": logcumsumexp, "logcumsumexp dx": gradient(logcumsumexp, 0),
    "linear_scan": linear_scan, "linear_scan da": gradient(linear_scan, 0), "linear_scan db": gradient(linear_scan, 1),
    "linear_scan ddh": double_backward(0), "linear_scan dda": double_backward(1), "linear_scan ddb": double_backward(2),
    "log_linear_scan": log_linear_scan, "log_linear_scan dal": gradient(log_linear_scan, 0),
    "log_linear_scan dbe": gradient(log_linear_scan, 1),
    "inclusive_scan, a + b + ab": compound, "inclusive_scan, a + b + ab, dx": gradient(compound, 0),
    "exp": torch.exp, "log": torch.log, "log1p": torch.log1p, "sigmoid": torch.sigmoid, "tanh": torch.tanh,
    "erf": torch.erf, "gelu": F.gelu, "silu": F.silu, "relu": F.relu,
    "gelu derivative": slope(F.gelu), "silu derivative": slope(F.silu), "relu derivative": slope(F.relu),
    "sigmoid derivative": slope(torch.sigmoid), "tanh derivative": slope(torch.tanh),
    "adamw w": adamw(0), "adamw m": adamw(1), "adamw v": adamw(2),
    "linear": F.linear,
    "linear dx": gradient(F.linear, 0), "linear dw": gradient(F.linear, 1),
    "linear dbias": linear_dbias,
    "rms_norm": rms_norm, "rms_norm dx": gradient(rms_norm, 0), "rms_norm dw": gradient(rms_norm, 1),
    "embedding dtable": embedding_gradient, "norm2": torch.linalg.vector_norm,
    "cross_entropy": lambda logits, targets: F.cross_entropy(logits, targets.long()),
    "cross_entropy dlogits": cross_entropy_slope,
    **with_gradients("attention", attention, {" dq": 0, " dk": 1, " dv": 2}),
    **with_gradients("recurrence", recurrence, OF_RECURRENCE),
    "recurrence, parallel": lambda g, *inputs: recurrence(*inputs),
    **with_gradients("MDI gamma", decay(F.gelu), {" dz": 0, " dw0": 1, " dw2": 3}),
    **with_gradients("DPG gamma", decay(F.relu), {" dz": 0, " dw0": 1, " dw2": 3}),
    **with_gradients("integrate", integrate, {" dz": 0, " dp": 1, " dgamma": 2, " dw": 3}),
    "hds_top": hds_top, "hds_top dslots": gradient(hds_top, 0),
}


def result_of(case, inputs):
    """As doubles; nothing where PyTorch has no such operator for a 16-bit dtype."""
    try:
        return PRIMITIVES[case["primitive"]](*inputs).detach().double().reshape(-1).numpy()
    except RuntimeError as error:
        if case["dtype"] in ("float16", "bfloat16") and "not implemented for" in str(error):
            return np.empty(0)
        raise


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
        result = result_of(case, inputs)
        sizes.append(len(result))
        results.append(result)
    np.concatenate(results).tofile(os.path.join(directory, "results.bin"))
    with open(os.path.join(directory, "results.json"), "w", encoding="utf-8") as file:
        json.dump({"version": torch.__version__, "sizes": sizes}, file)


if __name__ == "__main__":
    main()
