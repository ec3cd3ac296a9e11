# SPDX-License-Identifier: Apache-2.0
"""Compares torch_model with the fixtures: every output and gradient in float64."""
import glob
import os
import sys

import numpy as np
import torch
from torch.nn import functional as F

from torch_model import Block, Model, expanded, recurrence

DEFAULTS = {"inner": 0, "memory-decay": "mdi", "dpg-rank": 8, "convex": False, "output-gate": False, "mix": 0.1,
            "mix-gate": True, "activation": "gelu", "norm": "outside", "dropout": 0.0}
TOLERANCE = 1e-10  # of float64, relative to the largest element; the fixtures' own rule


class Comparison:
    def __init__(self, file, arrays, prefix):
        self.file, self.arrays, self.prefix, self.worst, self.count = file, arrays, prefix, 0.0, 0
        gradients = [np.abs(v).max() for n, v in arrays.items() if n.startswith(prefix + "grad/")]
        self.gradient_scale = max(gradients, default=0.0)

    def add(self, name, value):
        """Gradients that are zero up to rounding are compared with the largest of their call."""
        wanted = self.arrays[self.prefix + name]
        scale = np.abs(wanted).max()
        if "grad/" in name:
            scale = max(scale, 1e-4 * self.gradient_scale)
        error = np.abs(np.asarray(value.detach()) - wanted).max() / max(scale, 1e-300)
        self.worst, self.count = max(self.worst, error), self.count + 1
        if not error <= TOLERANCE:
            sys.exit(f"torch_train: {self.file}: {self.prefix}{name} differs by {error:.1e} of its largest element")

    def gradients(self, leaves):
        """Every stored gradient of a leaf, and no gradient where none is stored."""
        for name, leaf in leaves.items():
            stored = self.prefix + "grad/" + name in self.arrays
            if stored:
                self.add("grad/" + name, leaf.grad)
            elif leaf.grad is not None and leaf.grad.abs().max() > 0:
                sys.exit(f"torch_train: {self.file}: {self.prefix}{name} has a gradient, the fixture has none")


def leaf(array):
    return torch.as_tensor(array, dtype=torch.float64).clone().requires_grad_()


def weighted(outputs, arrays):
    return sum((value * torch.tensor(arrays["R/" + name], dtype=torch.float64)).sum() for name, value in outputs.items())


def check_recurrence(file, arrays):
    for call in ("gated", "plain"):
        leaves = {n: leaf(v) for n, v in arrays.items() if n.startswith(("in/", "param/"))}
        p = {n.split("/")[1]: v for n, v in leaves.items()}
        gated = call == "gated"
        h = recurrence(p["z"], p["gamma"], p["h_init"], p["gate_block_weight"], p["gate_block_bias"],
                       p["gate_mdi_weight"] if gated else None, p["gate_mdi_bias"] if gated else None, 0.1)
        outputs = {"output": h, "final": h[:, -1:]}
        weighted(outputs, arrays).backward()
        compare = Comparison(file, arrays, f"f64/{call}/")
        for name, value in outputs.items():
            compare.add(name, value)
        compare.gradients(leaves)
        yield compare


def load(module, arrays):
    state = {n[len("param/"):]: torch.tensor(v, dtype=torch.float64) for n, v in arrays.items()
             if n.startswith("param/") and n != "param/lm_head.weight"}
    module.double().load_state_dict(state, strict=False)
    return {"param/" + n: p for n, p in module.named_parameters()}


def config_of(arrays, prefix, heads):
    d, ffn = arrays[f"param/{prefix}ffn.3.weight"].shape
    dpg = f"param/{prefix}W_gamma_down.weight" in arrays
    c = dict(DEFAULTS, width=d, heads=heads, ffn=ffn, **{"memory-decay": "dpg" if dpg else "mdi"})
    c["inner"] = arrays[f"param/{prefix}mdi.W_gamma.0.weight"].shape[0]
    return c


def check_block(file, arrays):
    block = Block(config_of(arrays, "", 4))
    banks = [leaf(arrays["in/long_k"]), leaf(arrays["in/long_v"])]
    for run in ("1", "2"):
        leaves = load(block, arrays)
        block.zero_grad(set_to_none=True)
        x = leaf(arrays["in/x" + run])
        y = block(x, *(expanded(b, x.shape[0]) for b in banks))
        weighted({"y" + run: y}, arrays).backward()
        compare = Comparison(file, arrays, f"f64/run{run}/")
        compare.add("y", y)
        compare.gradients({**leaves, "in/x" + run: x, "in/long_k": banks[0], "in/long_v": banks[1]})
        mean = y.detach().mean(1, keepdim=True).expand(-1, banks[0].shape[-2], -1)
        compare.add("state/long_k", mean)
        banks = [leaf(mean), leaf(mean)]
        yield compare


def check_model(file, arrays):
    ids, targets = (torch.tensor(arrays["in/" + n]) for n in ("ids", "targets"))
    layers = sum(n.startswith("in/long_k.") for n in arrays)
    config = dict(config_of(arrays, "blocks.0.", 4), layers=layers)
    for call in sorted({n.split("/")[1] for n in arrays if n.startswith("f64/")}):
        model = Model(config, arrays["param/embedding.weight"].shape[0])
        leaves = load(model, arrays)
        first = {f"in/long_{kv}.{i}": leaf(arrays[f"in/long_{kv}.{i}"]) for i in range(layers) for kv in "kv"}
        banks = [[expanded(first[f"in/long_{kv}.{i}"], ids.shape[0]) for kv in "kv"] for i in range(layers)]
        step = ids.shape[1] if call == "full" else int(call[len("chunk"):])
        logits = []
        for t in range(0, ids.shape[1], step):
            part, means = model(ids[:, t:t + step], banks)
            logits.append(part)
            banks = [[m[:, None].expand_as(banks[i][0])] * 2 for i, m in enumerate(means)]
        logits = torch.cat(logits, 1)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        compare = Comparison(file, arrays, f"f64/{call}/")
        compare.add("logits", logits)
        compare.add("loss", loss)
        for i, mean in enumerate(means):
            compare.add(f"long_summary.{i}", mean)
        if compare.gradient_scale > 0:
            loss.backward()
            compare.gradients({**leaves, **(first if call == "full" else {})})
        yield compare


def check(directories):
    kinds = {"recurrence": check_recurrence, "block": check_block, "model": check_model}
    results = {}
    for directory in directories:
        for path in sorted(glob.glob(os.path.join(directory, "*.npz"))):
            file = os.path.basename(path)
            kind = file.split("_")[0]
            # block_hem stores the four projections in one matrix, block_decode has no gradients.
            if kind not in kinds or file in results or file.startswith(("block_hem", "block_decode")):
                continue
            with np.load(path) as archive:
                arrays = {n: archive[n] for n in archive.files}
            results[file] = list(kinds[kind](file, arrays))
    if {f.split("_")[0] for f in results} != set(kinds):
        sys.exit(f"torch_train: fixtures of {', '.join(kinds)} are needed; found {len(results)} files in {directories}")
    comparisons = [c for r in results.values() for c in r]
    return {"files": len(results), "arrays": sum(c.count for c in comparisons),
            "worst": max(c.worst for c in comparisons), "tolerance": TOLERANCE}
