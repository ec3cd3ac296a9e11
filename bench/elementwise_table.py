#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Elementwise functions beside a copy, the standard library, Eigen and PyTorch, as Markdown and JSON.

bench/elementwise measures the first three in its own process. PyTorch takes turns with
bench/elementwise --serve: each round asks one, then the other.

    bench/elementwise_table.py --elementwise build/bench/elementwise --python /usr/bin/python3 --output bench/results
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "support"))
import report  # noqa: E402


def serve():
    """PyTorch's side: "operation dtype elements threads repeats" -> seconds per call; repeats 0 asks for the number
    of calls that fill a millisecond. Results go to preallocated arrays, as ours do."""
    import torch

    aten = torch.ops.aten

    def call(name, dtype, n):
        u = (8 * torch.rand(n) - 4).to(getattr(torch, dtype))
        g, y = u / 4, torch.empty_like(u)
        positive = u.abs()
        return {
            "exp": lambda: torch.exp(u, out=y), "log": lambda: torch.log(positive, out=y),
            "sigmoid": lambda: torch.sigmoid(u, out=y), "tanh": lambda: torch.tanh(u, out=y),
            "silu": lambda: aten.silu.out(u, out=y), "gelu": lambda: aten.gelu.out(u, out=y),
            "silu_backward": lambda: aten.silu_backward.grad_input(g, u, grad_input=y),
            "gelu_backward": lambda: aten.gelu_backward.grad_input(g, u, grad_input=y),
        }[name]

    def seconds(function, repeats):
        start = time.perf_counter()
        for _ in range(repeats):
            function()
        return time.perf_counter() - start

    cached, function = None, None
    for line in sys.stdin:
        name, dtype, n, threads, repeats = line.split()
        torch.set_num_threads(int(threads))
        if cached != (name, dtype, n):
            cached, function = (name, dtype, n), call(name, dtype, int(n))
        function()
        repeats = int(repeats)
        if repeats:
            print(seconds(function, repeats) / repeats, flush=True)
            continue
        repeats = 1
        while (spent := seconds(function, repeats)) < 2.5e-4:
            repeats *= 2
        print(max(1, round(repeats * 1e-3 / spent)), flush=True)


def over_torch(servers, case, rounds):
    repeats = [max(1, int(s.ask(*case, 0))) for s in servers]
    ours, peer = report.in_turns(*(lambda s=s, r=r: s.ask(*case, r) for s, r in zip(servers, repeats)), rounds)
    return report.summary([p / o for o, p in zip(ours, peer)])[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elementwise", help="the program of bench/elementwise.cpp")
    parser.add_argument("--python", default=sys.executable, help="a Python with PyTorch")
    parser.add_argument("--output", help="directory of the results")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, nargs="*", default=[1], help="thread counts")
    parser.add_argument("--serve", action="store_true", help="answer timing requests with PyTorch")
    options = parser.parse_args()
    if options.serve:
        return serve()
    if not options.elementwise or not options.output:
        parser.error("--elementwise and --output are needed")
    with tempfile.TemporaryDirectory() as directory:
        results = os.path.join(directory, "elementwise.json")
        threads = [word for n in options.threads for word in ("--threads", str(n))]
        subprocess.run([options.elementwise, "--rounds", str(options.rounds), "--json", results, *threads], check=True)
        with open(results, encoding="utf-8") as file:
            rows = json.load(file)
    servers = [report.Server([options.elementwise, "--serve"]),
               report.Server([options.python, os.path.abspath(__file__), "--serve"])]
    for row in rows:
        case = [row[k] for k in ("operation", "dtype", "elements", "threads")]
        row["over_torch"] = over_torch(servers, case, options.rounds)
    for server in servers:
        server.close()
    columns = {"operation": "operation", "dtype": "dtype", "elements": "elements", "threads": "threads",
               "elements_per_ns": "elements/ns", "of_copy": "of a copy", "over_std": "over std", "over_eigen": "over Eigen",
               "over_torch": "over PyTorch", "spread": "spread"}
    text = report.table(rows, columns)
    print(text)
    report.write_results(options.output, "elementwise", report.about(), rows, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
