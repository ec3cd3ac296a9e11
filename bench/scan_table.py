#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The scans beside PyTorch's CPU operators: one run, in turns, as Markdown and as a picture.

Two processes answer timing requests, this library's (bench/scan --serve) and PyTorch's
(bench/torch_scan.py), never both at once: each round asks one, then the other, and ratios are formed
within a round. Only the Python that runs torch_scan.py needs PyTorch.

    bench/scan_table.py --scan build/bench/scan --python /usr/bin/python3 --output bench/results
"""
import argparse
import os
import statistics
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "support"))
import report  # noqa: E402

SHAPES = [(8, 8, 4), (8, 64, 64), (8, 128, 64), (8, 256, 64), (8, 512, 64), (8, 1024, 64)]
OPERATIONS = ["cumprod", "cumprod_backward", "logcumsumexp", "logcumsumexp_backward"]
TARGETS = {"cumprod": 8, "cumprod_backward": 10, "logcumsumexp": 20, "logcumsumexp_backward": 20}


def target(operation, shape):
    return 4 if operation == "cumprod" and shape == SHAPES[0] else TARGETS[operation]


def measure(servers, operation, shape, threads, rounds):
    """Median milliseconds of each server, and the quartiles of the rounds' quotients peer / ours."""
    case = (operation, *shape, threads)
    repeats = [max(1, int(s.ask(*case, 0))) for s in servers]
    ours, peer = report.in_turns(*(lambda s=s, r=r: s.ask(*case, r) for s, r in zip(servers, repeats)), rounds)
    low, ratio, high = statistics.quantiles([p / o for o, p in zip(ours, peer)], n=4, method="inclusive")
    return {
        "operation": operation, "batch": shape[0], "time": shape[1], "channel": shape[2],
        "threads": threads, "ours_ms": statistics.median(ours) * 1e3,
        "torch_ms": statistics.median(peer) * 1e3, "ratio": ratio, "ratio_low": low, "ratio_high": high,
        "target": target(operation, shape), "spread": report.summary(ours)[1],
    }


def markdown(rows):
    lines = ["Float. Milliseconds, medians; the ratio is the median over the rounds, in brackets its",
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
                    f"| {report.digits(r['ours_ms'])} | {report.digits(r['torch_ms'])} "
                    f"| **{r['ratio']:.1f}** ({r['ratio_low']:.1f} to {r['ratio_high']:.1f}) | {r['target']} |")
        lines.append("")
    return "\n".join(lines)


def picture(rows, threads, processor):
    """Times faster than PyTorch on a logarithmic axis, with what was asked for."""
    groups, asked = {}, {}
    for r in rows:
        if r["threads"] == threads:
            group = f"{r['batch']} x {r['time']} x {r['channel']}"
            groups.setdefault(group, {})[r["operation"]] = r["ratio"]
            asked.setdefault(group, {})[r["operation"]] = r["target"]
    return report.bars(f"Times faster than PyTorch, {threads} thread{'s' if threads > 1 else ''}",
                       f"batch x time x channel; dashes: asked; {processor}, float", list(groups), OPERATIONS, groups,
                       asked, logarithmic=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scan", required=True, help="the program built from bench/scan.cpp")
    parser.add_argument("--python", default=sys.executable, help="a Python with PyTorch")
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, os.cpu_count() or 1}))
    parser.add_argument("--quick", action="store_true", help="only see that all is there")
    parser.add_argument("--output", default=os.path.join(HERE, "results"), help="directory for the table and pictures")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.threads = 2, [1]
    if options.rounds < 2:
        parser.error("--rounds: at least 2")
    servers = [report.Server([options.scan, "--serve"]),
               report.Server([options.python, os.path.join(HERE, "torch_scan.py")])]
    rows = []
    for threads in options.threads:
        for operation in OPERATIONS:
            for shape in SHAPES[:2] if options.quick else SHAPES:
                rows.append(measure(servers, operation, shape, threads, options.rounds))
                r = rows[-1]
                print(f"{operation:22} {str(shape):14} {threads} threads: {r['ours_ms']:9.4f} ms, "
                      f"PyTorch {r['torch_ms']:9.4f} ms, {r['ratio']:6.1f} (asked {r['target']})", flush=True)
    for s in servers:
        s.close()
    facts = report.about(options.scan, versions=report.torch_version(options.python))
    report.write_results(options.output, "scan", facts, rows, markdown(rows))
    for threads in options.threads:
        report.write(options.output, f"scan_{threads}_threads.svg", picture(rows, threads, facts["processor"]))


if __name__ == "__main__":
    main()
