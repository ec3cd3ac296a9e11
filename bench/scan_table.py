#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The scans beside PyTorch's CPU operators: one run, in turns, as Markdown and as a picture.

Two processes answer timing requests, this library's (bench/scan --serve) and PyTorch's
(bench/torch_scan.py), never both at once: each round asks one, then the other, and ratios are formed
within a round. Only the Python that runs torch_scan.py needs PyTorch.

    bench/scan_table.py --scan build/bench/scan --python /usr/bin/python3 --output bench/results
"""
import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys

SHAPES = [(8, 8, 4), (8, 64, 64), (8, 128, 64), (8, 256, 64), (8, 512, 64), (8, 1024, 64)]
OPERATIONS = ["cumprod", "cumprod_backward", "logcumsumexp", "logcumsumexp_backward"]
TARGETS = {"cumprod": 8, "cumprod_backward": 10, "logcumsumexp": 20, "logcumsumexp_backward": 20}


def target(operation, shape):
    return 4 if operation == "cumprod" and shape == SHAPES[0] else TARGETS[operation]


class Server:
    """A process that answers one line, seconds per call, to every request line."""

    def __init__(self, command):
        self.command = command
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, operation, shape, threads, repeats):
        self.process.stdin.write(" ".join(map(str, (operation, *shape, threads, repeats))) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        try:
            return float(answer)
        except ValueError:
            sys.exit(f"scan_table: {' '.join(self.command)} answered: {answer or 'nothing'}")

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def measure(servers, operation, shape, threads, rounds):
    """Median seconds of each server, and the median of the rounds' quotients peer / ours."""
    repeats = [max(1, int(s.ask(operation, shape, threads, 0))) for s in servers]
    samples = [[], []]
    for turn in range(rounds):
        for i in (0, 1) if turn % 2 == 0 else (1, 0):
            samples[i].append(servers[i].ask(operation, shape, threads, repeats[i]))
    ours, peer = samples
    quotients = [p / o for o, p in zip(ours, peer)]
    quartiles = statistics.quantiles(quotients, n=4)
    return {
        "operation": operation, "batch": shape[0], "time": shape[1], "channel": shape[2],
        "threads": threads, "ours_ms": statistics.median(ours) * 1e3,
        "torch_ms": statistics.median(peer) * 1e3, "ratio": statistics.median(quotients),
        "ratio_low": quartiles[0], "ratio_high": quartiles[2], "target": target(operation, shape),
    }


def processor():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def three_digits(value):
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"


def markdown(rows, about):
    lines = [f"{about}. Milliseconds, medians; the ratio is the median over the rounds, in brackets its",
             "quartiles. cumprod_backward is PyTorch's operator without its autograd; logcumsumexp_backward",
             "has no operator of its own and is timed through torch.autograd.grad.", ""]
    for threads in sorted({r["threads"] for r in rows}):
        lines += [f"### {threads} thread{'s' if threads > 1 else ''}", "",
                  "| operation | batch x time x channel | mmrec | PyTorch | times faster | asked |",
                  "|---|---|---:|---:|---:|---:|"]
        for r in rows:
            if r["threads"] == threads:
                lines.append(
                    f"| {r['operation']} | {r['batch']} x {r['time']} x {r['channel']} "
                    f"| {three_digits(r['ours_ms'])} | {three_digits(r['torch_ms'])} "
                    f"| **{r['ratio']:.1f}** ({r['ratio_low']:.1f} to {r['ratio_high']:.1f}) | {r['target']} |")
        lines.append("")
    return "\n".join(lines)


STYLE = """<style>
text{font:12px sans-serif;fill:#222}.title{font-size:16px;font-weight:bold}.page{fill:#fff}
.grid{stroke:#e3e3e3}.axis{stroke:#222}.asked{stroke:#222;stroke-width:1.5;stroke-dasharray:3 2}
.c0{fill:#0072b2}.c1{fill:#d55e00}.c2{fill:#009e73}.c3{fill:#cc79a7}
@media (prefers-color-scheme: dark){text{fill:#e6edf3}.page{fill:#0d1117}.grid{stroke:#2d333b}
.axis,.asked{stroke:#e6edf3}.c0{fill:#56b4e9}.c1{fill:#ff9a4d}.c2{fill:#3ddcae}.c3{fill:#e8a7c9}}
</style>"""


def picture(rows, threads, about):
    """Grouped bars of times faster than PyTorch on a logarithmic axis, with what was asked for."""
    rows = [r for r in rows if r["threads"] == threads]
    width, height, left, right, top, bottom = 860, 420, 60, 20, 72, 60
    highest = 10 ** math.ceil(math.log10(max(r["ratio"] for r in rows) * 1.05))
    lowest = min(1, 10 ** math.floor(math.log10(min(r["ratio"] for r in rows))))

    def y(value):
        share = math.log(value / lowest) / math.log(highest / lowest)
        return height - bottom - share * (height - bottom - top)

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" viewBox="0 0 {width} {height}" role="img">',
           f"<title>Times faster than PyTorch, {threads} threads</title>", STYLE,
           '<rect class="page" width="100%" height="100%"/>',
           f'<text class="title" x="{width / 2}" y="24" text-anchor="middle">Times faster than PyTorch, '
           f'{threads} thread{"s" if threads > 1 else ""}</text>',
           f'<text x="{width / 2}" y="{height - 8}" text-anchor="middle">batch x time x channel; dashes: '
           f"asked; {about}</text>"]
    x = left
    for i, name in enumerate(OPERATIONS):
        out.append(f'<rect class="c{i}" x="{x}" y="40" width="14" height="10"/>'
                   f'<text x="{x + 20}" y="50">{name}</text>')
        x += 40 + 7 * len(name)
    tick = lowest
    while tick <= highest * 1.001:
        for step in (1, 2, 5):
            if tick * step <= highest * 1.001:
                at = y(tick * step)
                out.append(f'<path class="grid" d="M{left} {at:.1f}H{width - right}"/>'
                           f'<text x="{left - 8}" y="{at + 4:.1f}" text-anchor="end">{tick * step:g}</text>')
        tick *= 10
    group = (width - left - right) / len(SHAPES)
    bar = group * 0.8 / len(OPERATIONS)
    for r in rows:
        shape = SHAPES.index((r["batch"], r["time"], r["channel"]))
        i = OPERATIONS.index(r["operation"])
        x, at = left + group * (shape + 0.1) + bar * i, y(r["ratio"])
        out.append(f'<rect class="c{i}" x="{x:.1f}" y="{at:.1f}" width="{bar - 3:.1f}" '
                   f'height="{height - bottom - at:.1f}"/>'
                   f'<text x="{x + bar / 2 - 1.5:.1f}" y="{at - 4:.1f}" text-anchor="middle">{r["ratio"]:.0f}</text>'
                   f'<path class="asked" d="M{x - 1:.1f} {y(r["target"]):.1f}H{x + bar - 2:.1f}"/>')
    for i, shape in enumerate(SHAPES):
        out.append(f'<text x="{left + group * (i + 0.5):.1f}" y="{height - bottom + 18}" '
                   f'text-anchor="middle">{" x ".join(map(str, shape))}</text>')
    out += [f'<path class="axis" d="M{left} {height - bottom}H{width - right}"/>', "</svg>", ""]
    return "\n".join(out)


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scan", required=True, help="the program built from bench/scan.cpp")
    parser.add_argument("--python", default=sys.executable, help="a Python with PyTorch")
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, os.cpu_count() or 1}))
    parser.add_argument("--output", default=os.path.join(here, "results"), help="directory for the table and pictures")
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error("--rounds: at least 2")
    servers = [Server([options.scan, "--serve"]), Server([options.python, os.path.join(here, "torch_scan.py")])]
    rows = []
    for threads in options.threads:
        for operation in OPERATIONS:
            for shape in SHAPES:
                rows.append(measure(servers, operation, shape, threads, options.rounds))
                r = rows[-1]
                print(f"{operation:22} {str(shape):14} {threads} threads: {r['ours_ms']:9.4f} ms, "
                      f"PyTorch {r['torch_ms']:9.4f} ms, {r['ratio']:6.1f} (asked {r['target']})", flush=True)
    version = subprocess.run([options.python, "-c", "import torch; print(torch.__version__)"],
                             capture_output=True, text=True, check=True).stdout.strip()
    for s in servers:
        s.close()
    about = f"PyTorch {version}, {processor()}, float"
    os.makedirs(options.output, exist_ok=True)

    def write(name, text):
        with open(os.path.join(options.output, name), "w", encoding="utf-8") as file:
            file.write(text)

    write("scan.md", markdown(rows, about))
    write("scan.json", json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
    for threads in options.threads:
        write(f"scan_{threads}_threads.svg", picture(rows, threads, about))


if __name__ == "__main__":
    main()
