#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The JSON lines of linear_gpu and torch_linear_gpu.py as tables: linear_gpu_table.py <file>"""
import json
import sys


def case(row):
    return (row["op"], row["element"], row.get("configuration"), row.get("rows"),
            row.get("inputs"), row.get("outputs"))


def cell(row, key, form="{:.4f}"):
    return form.format(row[key]) if row and row.get(key) is not None else "-"


def main():
    with open(sys.argv[1]) as file:
        rows = [json.loads(line) for line in file if line.startswith("{")]
    peers = {(case(row), row["how"]): row for row in rows if "peer" in row}
    ours = [row for row in rows if "op" in row and "peer" not in row]

    print("| elementwise | element | ms | of copy | GB/s |")
    print("|---|---|---|---|---|")
    for row in ours:
        if "copy_ms" in row:
            print(f"| {row['op']} | {row['element']} | {row['ms']:.4f} | {row['fraction']:.2f} "
                  f"| {row['gb_per_s']:.0f} |")
    print()
    hows = ["eager", "compile", "_addmm_activation"]
    print("| call | element | shape | ms | of products | TFLOP/s | graph ms | of products' graph | "
          + " | ".join(f"torch {how} ms, graph ms" for how in hows) + " |")
    print("|" + "---|" * (8 + len(hows)))
    for row in ours:
        if "product_ms" not in row:
            continue
        shape = (f"configuration {row['configuration']}" if "configuration" in row
                 else f"{row['rows']}, {row['inputs']}, {row['outputs']}")
        others = [peers.get((case(row), how)) for how in hows]
        print(f"| {row['op']} | {row['element']} | {shape} | {row['ms']:.4f} "
              f"| {row['fraction']:.2f} | {row['tflop_per_s']:.1f} | {row['graph_ms']:.4f} "
              f"| {row['graph_fraction']:.2f} | "
              + " | ".join(f"{cell(o, 'ms')}, {cell(o, 'graph_ms')}" for o in others) + " |")


if __name__ == "__main__":
    main()
