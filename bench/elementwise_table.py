#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Elementwise functions beside a copy, the standard library, Eigen and PyTorch, as Markdown and JSON.

bench/elementwise measures the first three in its own process. PyTorch takes turns with
bench/elementwise --serve: each round asks one, then the other.

    bench/elementwise_table.py --elementwise build/bench/elementwise --python /usr/bin/python3 --output bench/results
"""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "support"))
import torch_turns  # noqa: E402


def calls(operation, dtype, elements):
    """Results go to preallocated arrays, as ours do."""
    import torch

    aten = torch.ops.aten
    u = (8 * torch.rand(elements) - 4).to(getattr(torch, dtype))
    g, y = u / 4, torch.empty_like(u)
    positive = u.abs()
    return {
        "exp": lambda: torch.exp(u, out=y), "log": lambda: torch.log(positive, out=y),
        "sigmoid": lambda: torch.sigmoid(u, out=y), "tanh": lambda: torch.tanh(u, out=y),
        "silu": lambda: aten.silu.out(u, out=y), "gelu": lambda: aten.gelu.out(u, out=y),
        "silu_backward": lambda: aten.silu_backward.grad_input(g, u, grad_input=y),
        "gelu_backward": lambda: aten.gelu_backward.grad_input(g, u, grad_input=y),
    }[operation]


COLUMNS = {"operation": "operation", "dtype": "dtype", "elements": "elements", "threads": "threads",
           "elements_per_ns": "elements/ns", "of_copy": "of a copy", "over_std": "over std", "over_eigen": "over Eigen",
           "over_torch": "over PyTorch", "spread": "spread"}
FIELDS = ["operation", "dtype", "elements"]

if __name__ == "__main__":
    sys.exit(torch_turns.main(__doc__, __file__, "elementwise", FIELDS, calls, COLUMNS, ""))
