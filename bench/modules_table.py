#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""RMSNorm, attention, cross-entropy and embedding beside a copy and PyTorch, as Markdown and JSON.

bench/modules measures the copy in its own process. PyTorch takes turns with bench/modules --serve: each
round asks one, then the other.

    bench/modules_table.py --modules build/bench/modules --python /usr/bin/python3 --output bench/results
"""
import math
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "support"))
import torch_turns  # noqa: E402

BATCH, HEADS, SLOTS, VOCABULARY = 8, 8, 64, 8192  # as in modules.cpp


def calls(operation, dtype, rows, width):
    """Backwards are those of autograd, without their forward."""
    import torch
    from torch.nn import functional as F

    dtype = getattr(torch, dtype)

    def any_of(*shape):
        return (2 * torch.rand(shape) - 1).to(dtype)

    def rms_norm(x, w):
        return w * x / (x.norm(dim=-1, keepdim=True) / math.sqrt(width) + 1e-6)

    def attention(q, k, v):
        q, k, v = (x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in (q, k, v))
        p = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), -1)
        return (p @ v).transpose(1, 2).flatten(2)

    def forward(function, *inputs):
        def run():
            with torch.no_grad():
                function(*inputs)
        return run

    def backward(function, g, *inputs):
        inputs = [x.requires_grad_() for x in inputs]
        y = function(*inputs)
        return lambda: torch.autograd.grad(y, inputs, g, retain_graph=True)

    x, g = any_of(rows, width), any_of(rows, width)
    if operation.startswith("rms_norm"):
        w = any_of(width)
        return forward(rms_norm, x, w) if operation == "rms_norm" else backward(rms_norm, g, x, w)
    if operation.startswith("attention"):
        q, k, v = (any_of(BATCH, n, width) for n in (rows // BATCH, SLOTS, SLOTS))
        return forward(attention, q, k, v) if operation == "attention" else backward(attention, g.view_as(q), q, k, v)
    if operation.startswith("cross_entropy"):
        target = torch.randint(width, (rows,))
        if operation == "cross_entropy":
            return forward(F.cross_entropy, x, target)
        x.requires_grad_()
        return lambda: torch.autograd.grad(F.cross_entropy(x, target), x)
    table, ids, y = any_of(VOCABULARY, width), torch.randint(VOCABULARY, (rows,)), torch.empty_like(x)
    if operation == "embedding":
        return lambda: torch.index_select(table, 0, ids, out=y)
    return lambda: table.index_add_(0, ids, g)  # adds to the gradient that is there, as ours does


COLUMNS = {"operation": "operation", "dtype": "dtype", "rows": "rows", "width": "width", "threads": "threads",
           "median_us": "us", "bytes_per_ns": "bytes/ns", "of_copy": "of a copy", "of_peak": "of FMA peak",
           "over_torch": "over PyTorch", "spread": "spread"}
FIELDS = ["operation", "dtype", "rows", "width"]
NOTE = f"""
The copy reads and writes as many elements as the module has to. Attention: {BATCH} sequences, {HEADS} heads,
{SLOTS} slots each, its backward without the forward. cross_entropy_gradient: loss and gradient in one call.
Embedding: of {VOCABULARY} rows. PyTorch has no RMSNorm and no attention of its own in all its versions: here they
are composed of its operators.
"""

if __name__ == "__main__":
    sys.exit(torch_turns.main(__doc__, __file__, "modules", FIELDS, calls, COLUMNS, NOTE))
