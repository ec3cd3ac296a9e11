#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What got faster or slower between two result files of the same benchmark.

    bench/compare.py before.json bench/results/linear.json

Rows are matched by the fields that name them. A measure moved when it changed by more than the
spread of either run and by more than --least. Exit code 1 if something got slower.
"""
import argparse
import math
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "support"))
import report  # noqa: E402

# What a measure is follows from its name. A peer's own figures (torch_ms) are not compared; ratios
# to a peer or to the peak are.
MORE = ("flops", "gflops", "gbs", "ratio", "faster", "fraction")
LESS = ("seconds", "ms", "us", "ns", "bytes", "mib", "epsilons", "ulp", "ulps")
PEERS = ("torch", "eigen", "onednn", "openblas", "blis", "std", "peak", "peer", "memcpy", "copy")


def direction(measure):
    """1: more is better, -1: less is better, 0: not compared."""
    words = measure.split("_")
    if words[0] in ("of", "over", "ratio") and words[-1] != "spread":
        return 1
    if words[0] in PEERS or words[-1] == "spread":
        return 0
    if "per" in words:  # ns_per_step, tokens_per_second
        return -1 if words[words.index("per") - 1] in LESS else 1
    return 1 if words[-1] in MORE else -1 if words[-1] in LESS else 0


def moved(before, after, least):
    """(row's name, measure, old, new, gain) of each measure that moved; a gain below 1 is slower."""
    old_rows = {tuple(sorted((k, str(v)) for k, v in report.keys_of(r).items())): r for r in before}
    changes, matched = [], 0
    for new in after:
        old = old_rows.get(tuple(sorted((k, str(v)) for k, v in report.keys_of(new).items())))
        if old is None:
            continue
        matched += 1
        noise = max(least, old.get("spread", 0.0), new.get("spread", 0.0))
        for measure, value in new.items():
            was, way = old.get(measure), direction(measure)
            if not (way and isinstance(value, float) and isinstance(was, float)):
                continue
            if not (was > 0 and value > 0):
                gain = 1.0 if was == value else math.nan
            else:
                gain = (value / was) ** way
            if not 1 / (1 + noise) <= gain <= 1 + noise:
                name = ", ".join(str(v) for v in report.keys_of(new).values())
                changes.append((name, measure, was, value, gain))
    return changes, matched


def self_check():
    """The gate must see a slowdown, a speedup, noise and rows that are not there."""
    row = {"pass": "forward", "rows": 32, "gflops": 100.0, "spread": 0.04}

    def gains(least=0.02, **changed):
        return [round(c[4], 2) for c in moved([row], [{**row, **changed}], least)[0]]

    assert gains() == [] and gains(gflops=97.0) == [] and gains(gflops=104.0) == []
    assert gains(gflops=90.0) == [0.9] and gains(gflops=120.0) == [1.2]
    assert gains(gflops=90.0, spread=0.2) == [] and gains(gflops=90.0, least=0.2) == []
    assert moved([row], [{**row, "rows": 64}], 0.02) == ([], 0)
    slower = moved([{"name": "x", "ms": 1.0}], [{"name": "x", "ms": 1.5}], 0.02)[0]
    assert [round(c[4], 2) for c in slower] == [0.67]
    broken = moved([{"name": "x", "ms": 1.0}], [{"name": "x", "ms": math.nan}], 0.02)[0]
    assert len(broken) == 1 and not broken[0][4] >= 1
    assert direction("of_peak") == 1 and direction("torch_ms") == 0 and direction("ours_ms") == -1
    assert direction("tokens_per_second") == 1 and direction("ns_per_step") == -1
    assert direction("torch_tokens_per_second") == 0 and direction("elements_per_ns") == 1
    assert direction("onednn_gflops") == 0 and direction("over_eigen_avx2") == 1 and direction("spread") == 0
    print("compare: self-check passed")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", metavar="before after", help="two result files")
    parser.add_argument("--least", type=float, default=0.03, help="changes below this are never reported")
    parser.add_argument("--self-check", action="store_true", help="check this program and stop")
    options = parser.parse_args()
    if options.self_check:
        return self_check()
    if len(options.files) != 2:
        parser.error("two result files are needed")
    before, after = (report.load_rows(f) for f in options.files)
    changes, matched = moved(before, after, options.least)
    print(f"{matched} of {len(after)} rows are in both files")
    if not matched:
        sys.exit("compare: nothing to compare")
    for name, measure, was, now, gain in sorted(changes, key=lambda c: c[4]):
        word = "faster" if gain > 1 else "SLOWER"
        print(f"{word} {gain:.2f}x  {name}: {measure} {report.digits(was)} -> {report.digits(now)}")
    if any(not c[4] > 1 for c in changes):
        sys.exit(1)
    return None


if __name__ == "__main__":
    main()
