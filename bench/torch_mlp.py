#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The networks of bench/mlp.cpp in PyTorch eager: answers the same requests, and "compare FILE": how
far its outputs, before and after one training step, are from those that `outputs FILE` wrote."""
import json
import math
import sys
import time

import numpy as np
import torch
from torch import nn


def array(which, shape, bound):
    """The formula of mlp.cpp."""
    x = np.arange(math.prod(shape), dtype=np.uint32) * np.uint32(0x9e3779b9)
    x += np.uint32(which * 0x7f4a7c15 & 0xffffffff)
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x85ebca6b)
    x ^= x >> np.uint32(13)
    x *= np.uint32(0xc2b2ae35)
    x ^= x >> np.uint32(16)
    uniform = (x >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-23) - np.float32(1)
    return torch.from_numpy((np.float32(bound) * uniform).reshape(shape))


class Network:
    def __init__(self, inputs, hidden, layers, outputs, batch, threads):
        torch.set_num_threads(threads)
        sizes = [inputs] + [hidden] * layers + [outputs]
        modules = []
        for i, (fan_in, fan_out) in enumerate(zip(sizes, sizes[1:])):
            linear = nn.Linear(fan_in, fan_out)
            linear.weight = nn.Parameter(array(2 * i, (fan_out, fan_in), 1 / math.sqrt(fan_in)))
            linear.bias = nn.Parameter(array(2 * i + 1, (fan_out,), 1 / math.sqrt(fan_in)))
            modules += [linear, nn.ReLU()]
        self.model = nn.Sequential(*modules[:-1])
        self.x, self.target = array(1000, (batch, inputs), 1), array(1001, (batch, outputs), 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01)

    def forward(self):
        with torch.no_grad():
            return self.model(self.x)

    def train(self):
        self.optimizer.zero_grad()
        nn.functional.mse_loss(self.model(self.x), self.target).backward()
        self.optimizer.step()


def compare(network, path):
    """Largest difference, relative to the largest output."""
    both = np.fromfile(path, np.float32).reshape(2, *network.target.shape)

    def difference(wanted):
        own = network.forward().numpy()
        return float(np.abs(own - wanted).max() / np.abs(own).max())

    before = difference(both[0])
    network.train()
    return {"forward": before, "train": difference(both[1])}


def answer(line, state):
    request, *words = line.split()
    if request == "open" and len(words) == 6:
        state.clear()
        state["network"] = Network(*map(int, words))
        return {}
    network = state.get("network")
    if network and request in ("forward", "train") and len(words) == 1:
        call = getattr(network, request)
        start = time.perf_counter()
        for _ in range(int(words[0])):
            call()
        return {"seconds": time.perf_counter() - start}
    if network and request == "compare" and len(words) == 1:
        return compare(network, words[0])
    return {"error": f"cannot answer: {line.strip()}"}


def main():
    state = {}
    for line in sys.stdin:
        if line.strip():
            print(json.dumps(answer(line, state)), flush=True)


if __name__ == "__main__":
    main()
