#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The model of examples/pretrain in PyTorch, with the structure of the MM-Rec reference code: one
module per linear layer, and a TorchScript loop over time steps for the recurrence.

    torch_train.py --check                      against the fixtures, values and gradients in float64
    torch_train.py --model FILE                 trains on what `train --serve` exported; prints JSON
    torch_train.py --model FILE --serve         one request per line, one line of JSON as the answer:
                                                "steps N": seconds and losses; "memory": bytes

Fixtures: the directories of --fixtures or MMREC_FIXTURES (colon-separated), and tests/fixtures.
"""
import argparse
import json
import math
import os
import resource
import struct
import sys
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "support"))
from torch_fixtures import check  # noqa: E402
from torch_model import Model, expanded  # noqa: E402


def read_safetensors(path):
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        data = file.read()
    types = {"F32": np.float32, "F64": np.float64, "I32": np.int32, "I64": np.int64, "U8": np.uint8}
    metadata = header.pop("__metadata__", {})
    arrays = {n: np.frombuffer(data[slice(*t["data_offsets"])], types[t["dtype"]]).reshape(t["shape"])
              for n, t in header.items()}
    return arrays, metadata


def options_of(metadata):
    """Options as numbers and truth values where they are such."""
    words = {"true": True, "false": False}

    def value(text):
        for kind in (int, float):
            try:
                return kind(text)
            except ValueError:
                pass
        return words.get(text, text)

    return {n[len("option."):]: value(v) for n, v in metadata.items() if n.startswith("option.")}


def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Training:
    """The exported model on the exported batches, one after the other and again from the start."""

    def __init__(self, path, threads, autocast=False):
        torch.set_num_threads(threads)
        self.autocast = autocast
        self.imported_bytes = peak_bytes()
        arrays, metadata = read_safetensors(path)
        o = self.options = options_of(metadata)
        if o["dtype"] != "float" or o["mode"] != "windows" or o["accumulate"] != 1:
            sys.exit("torch_train: only --dtype float --mode windows --accumulate 1 is written here")
        if o["update"] == "stream" and o["context"] > o["memory-block"]:
            sys.exit("torch_train: a window longer than a memory block would write memory; not written here")
        o["inner"] = o["inner"] or max(1, o["width"] // 4)
        self.model = Model(o, arrays["embedding.weight"].shape[0])
        state = {n: torch.tensor(arrays[n]) for n in self.model.state_dict()}
        self.model.load_state_dict(state)
        banks = [[torch.tensor(arrays[f"banks.{i}.{n}"]) for n in ("keys", "values")] for i in range(o["layers"])]
        self.banks = [[expanded(b, o["batch"]) for b in pair] for pair in banks]
        self.batches = [(torch.tensor(i).long(), torch.tensor(t).long())
                        for i, t in zip(arrays["batches.inputs"], arrays["batches.targets"])]
        matrices = [p for p in self.model.parameters() if p.dim() > 1 or o["decay-vectors"]]
        vectors = [p for p in self.model.parameters() if p.dim() <= 1 and not o["decay-vectors"]]
        groups = [{"params": matrices, "weight_decay": o["decay"]}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=o["rate"], betas=(o["beta1"], o["beta2"]))
        self.done = 0
        self.model.train()

    def rate(self, step):
        o = self.options
        if step < o["warmup"]:
            return o["rate"] * step / o["warmup"]
        if step >= o["steps"] or o["steps"] <= o["warmup"]:
            return o["floor"]
        progress = (step - o["warmup"]) / (o["steps"] - o["warmup"])
        return o["floor"] + (o["rate"] - o["floor"]) * 0.5 * (1 + math.cos(math.pi * progress))

    def step(self):
        ids, targets = self.batches[self.done % len(self.batches)]
        self.done += 1
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.autocast):
            logits, _ = self.model(ids, self.banks)
        loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
        self.optimizer.zero_grad()
        loss.backward()
        if self.options["clip"] > 0:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.options["clip"])
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(self.done)
        self.optimizer.step()
        return loss.item()

    def answer(self, request):
        words = request.split()
        if words[:1] == ["steps"] and len(words) == 2:
            start = time.perf_counter()
            losses = [self.step() for _ in range(int(words[1]))]
            return {"seconds": time.perf_counter() - start, "losses": losses}
        if words == ["memory"]:
            return {"peak": peak_bytes(), "imported": self.imported_bytes}
        return {"error": f"expected steps N or memory, got {request!r}"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the fixtures and stop")
    parser.add_argument("--fixtures", default=os.environ.get("MMREC_FIXTURES", ""), help="further directories")
    parser.add_argument("--model", help="file written by `train --serve`")
    parser.add_argument("--serve", action="store_true", help="answer requests from standard input")
    parser.add_argument("--autocast", action="store_true", help="products and what else PyTorch chooses in bfloat16")
    parser.add_argument("--steps", type=int, default=20, help="steps to time, after 3 that are not")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    if options.check:
        own = os.path.join(os.path.dirname(HERE), "tests", "fixtures")
        print(json.dumps(check([d for d in options.fixtures.split(":") if d] + [own])))
        return
    if not options.model:
        parser.error("--model or --check is needed")
    training = Training(options.model, options.threads, options.autocast)
    if options.serve:
        for line in sys.stdin:
            print(json.dumps(training.answer(line)), flush=True)
        return
    training.answer("steps 3")
    timed = training.answer(f"steps {options.steps}")
    tokens = options.steps * training.options["batch"] * training.options["context"]
    print(json.dumps({"tokens_per_second": tokens / timed["seconds"], "losses": timed["losses"],
                      "torch": torch.__version__, "threads": torch.get_num_threads(), **training.answer("memory")}))


if __name__ == "__main__":
    main()
