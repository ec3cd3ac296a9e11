#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the *_gpu benchmarks and their torch_*_gpu.py peers wrote, as Markdown: gpu_tables.py <file>"""
import json
import sys


def table(head, lines):
    if lines:
        print("| " + " | ".join(head) + " |")
        print("|" + "---|" * len(head))
        for line in lines:
            print("| " + " | ".join(line) + " |")
        print()


def number(row, key, form="{:.4f}"):
    return form.format(row[key]) if row and row.get(key) is not None else "-"


def case(row):
    keys = ("op", "element", "configuration", "batch", "time", "channel", "rows", "inputs", "outputs",
            "width", "detail")
    return tuple(row.get(key) for key in keys)


def shape(row):
    if "configuration" in row:
        return f"configuration {row['configuration']}"
    keys = ("batch", "time", "channel", "rows", "inputs", "outputs", "width", "detail")
    return ", ".join(str(row[key]) for key in keys if key in row)


def main():
    with open(sys.argv[1]) as file:
        rows = [json.loads(line) for line in file if line.startswith("{")]
    peers = {(case(row), row.get("how")): row for row in rows if "peer" in row}
    ours = [row for row in rows if "op" in row and "peer" not in row]
    about = {key: value for row in reversed(rows) for key, value in row.items()
             if key in ("revision", "device", "multiprocessors", "driver_cuda", "cuda")}
    machine = [about["device"], f"{about['multiprocessors']} multiprocessors"]
    if "cuda" in about:
        machine.append(f"CUDA {about['cuda']} (driver {about['driver_cuda']})")
    machine += sorted({row["peer"] for row in peers.values()})
    if "revision" in about:
        machine.append(f"revision {about['revision']}")
    print("; ".join(machine) + "\n")

    def present(*hows):
        return [how for how in hows if any(key[1] == how for key in peers)]

    def peers_of(row, hows):
        return [number(peers.get((case(row), how)), "ms") for how in hows]

    memory = [row for row in ours if "copy_ms" in row]
    hows = [None] + present("associative_scan", "CUB")
    table(["call", "element", "shape", "layout", "ms", "of copy", "GB/s", "torch ms"] +
          [f"{how} ms" for how in hows[1:]],
          [[row["op"], row["element"], shape(row), row.get("layout", "-").replace("_", "-"),
            number(row, "ms"), number(row, "fraction", "{:.2f}"), number(row, "gb_per_s", "{:.0f}")] +
           peers_of(row, hows) for row in memory])

    hows = present("eager", "compile", "_addmm_activation")
    products = [row for row in ours if "product_ms" in row]
    table(["call", "element", "shape", "ms", "of products", "TFLOP/s", "graph ms",
           "of products' graph", "autotune: graph ms", "gain"] +
          [f"torch {how} ms, graph ms" for how in hows],
          [[row["op"], row["element"], shape(row), number(row, "ms"),
            number(row, "fraction", "{:.2f}"), number(row, "tflop_per_s", "{:.1f}"),
            number(row, "graph_ms"), number(row, "graph_fraction", "{:.2f}"),
            number(row, "graph_tuned_ms"), number(row, "graph_gain", "{:.2f}")] +
           [", ".join(number(peers.get((case(row), how)), key) for key in ("ms", "graph_ms"))
            for how in hows] for row in products])

    hows = present("TorchScript", "GRU")
    table(["pass", "element", "batch, time, D", "solver", "ms", "ns per step", "sweeps"] +
          [f"{how} ms" for how in hows],
          [[row["op"], row["element"], shape(row),
            row["solver"] + (" (automatic)" if row["automatic"] else ""), number(row, "ms"),
            number(row, "ns_per_step", "{:.0f}"), str(row["sweeps"])] + peers_of(row, hows)
           for row in ours if "solver" in row])


if __name__ == "__main__":
    main()
