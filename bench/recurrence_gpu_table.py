#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The JSON lines of recurrence_gpu as a table: recurrence_gpu_table.py <file>"""
import json
import sys


def main():
    with open(sys.argv[1]) as file:
        rows = [json.loads(line) for line in file if line.startswith("{")]
    print("| pass | element | batch, time, D | solver | ms | ns per step | sweeps | sequential steps |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        if "op" in row:
            picked = " (automatic)" if row["automatic"] else ""
            print(f"| {row['op']} | {row['element']} | {row['batch']}, {row['time']}, {row['width']} "
                  f"| {row['solver']}{picked} | {row['ms']:.3f} | {row['ns_per_step']:.0f} "
                  f"| {row['sweeps']} | {row['sequential_steps']} |")


if __name__ == "__main__":
    main()
