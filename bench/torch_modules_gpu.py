#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""PyTorch's operators at the shapes of modules_gpu.cu, as the same JSON lines (eager)."""
import torch
from torch.nn import functional as F

from support.torch_gpu import backward_of, milliseconds, report, uniform


def norm(dtype, rows, n):
    x, w = (uniform(1, *shape, dtype=dtype).requires_grad_() for shape in ((rows, n), (n,)))
    g = uniform(1, rows, n, dtype=dtype)
    yield "rms_norm", 0, lambda: F.rms_norm(x, (n,), w)
    yield "rms_norm_backward", 0, backward_of(F.rms_norm(x, (n,), w), (x, w), g)


def loss(dtype, rows, classes):
    logits = uniform(1, rows, classes, dtype=dtype).requires_grad_()
    targets = torch.randint(classes, (rows,), device="cuda")
    yield "cross_entropy", 0, lambda: F.cross_entropy(logits.detach(), targets)
    yield ("cross_entropy_gradient", 0,
           lambda: torch.autograd.grad(F.cross_entropy(logits, targets), logits))


def lookup(dtype, rows, n, vocabulary):
    table = uniform(1, vocabulary, n, dtype=dtype).requires_grad_()
    ids, g = torch.randint(vocabulary, (rows,), device="cuda"), uniform(1, rows, n, dtype=dtype)
    yield "embedding", vocabulary, lambda: F.embedding(ids, table)
    yield "embedding_backward", vocabulary, backward_of(F.embedding(ids, table), table, g)


def memory(dtype, batch, time, n, heads, slots):
    def by_head(steps):
        x = uniform(1, batch, steps, heads, n // heads, dtype=dtype)
        return x.transpose(1, 2).requires_grad_()

    q, k, v, g = by_head(time), by_head(slots), by_head(slots), by_head(time)
    yield "attention", slots, lambda: F.scaled_dot_product_attention(q, k, v)
    yield "attention_backward", slots, backward_of(F.scaled_dot_product_attention(q, k, v), (q, k, v), g)


CASES = [(norm, 65536, 512), (norm, 65536, 2048), (norm, 8192, 8192), (loss, 262144, 256),
         (loss, 16384, 32768), (loss, 8192, 50257), (lookup, 262144, 512, 256),
         (lookup, 65536, 1024, 50257), (memory, 8, 8192, 512, 8, 64), (memory, 8, 8192, 1024, 16, 16)]


def main():
    for dtype in (torch.float32, torch.bfloat16):
        element = str(dtype).replace("torch.", "").replace("32", "")
        for make, *sizes in CASES:
            rows, width = (sizes[0] * sizes[1], sizes[2]) if make is memory else sizes[:2]
            for op, detail, call in make(dtype, *sizes):
                report({"op": op, "element": element, "rows": rows, "width": width, "detail": detail},
                       milliseconds(call, rounds=10))
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
