#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The JSON lines of scan_gpu and torch_scan_gpu.py as a table: scan_gpu_table.py <file>"""
import json
import sys


def main():
    with open(sys.argv[1]) as file:
        rows = [json.loads(line) for line in file if line.startswith("{")]

    def case(row):
        return row["op"], row["element"], row["batch"], row["time"], row["channel"]

    peers = {case(row): row for row in rows if "peer" in row}
    print("| scan | element | batch, time, channel | layout | ms | of copy | torch ms |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        if "device" in row or "peer" in row:
            continue
        peer = peers.get(case(row))
        print(f"| {row['op']} | {row['element']} | {row['batch']}, {row['time']}, {row['channel']} "
              f"| {row['layout'].replace('_', '-')} | {row['ms']:.4f} | {row['fraction']:.2f} "
              f"| {peer['ms']:.4f} |" if peer else
              f"| {row['op']} | {row['element']} | {row['batch']}, {row['time']}, {row['channel']} "
              f"| {row['layout'].replace('_', '-')} | {row['ms']:.4f} | {row['fraction']:.2f} | - |")


if __name__ == "__main__":
    main()
