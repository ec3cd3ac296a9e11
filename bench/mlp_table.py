#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Nine multi-layer perceptrons (those of Hypatia's multi-configuration benchmark) beside PyTorch eager:
forward and training step, in turns, after their outputs have been compared.

    bench/mlp_table.py --mlp build/bench/mlp --python /usr/bin/python3 --output bench/results
"""
import argparse
import os
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "support"))
import report  # noqa: E402

# Inputs, hidden, hidden layers, outputs, batch.
NETWORKS = [(784, 256, 2, 10, 64), (784, 256, 2, 10, 256), (512, 512, 3, 128, 128), (784, 512, 3, 128, 256),
            (1024, 512, 4, 256, 256), (784, 2048, 4, 1000, 512), (784, 2048, 4, 1000, 1024),
            (2048, 2048, 4, 1000, 1024), (1024, 4096, 6, 1000, 512)]
# Of the largest output: sums of up to 4096 products in float, in another order, through seven layers.
TOLERANCE = 1e-4


def measure(ours, torch, number, threads, options):
    network = NETWORKS[number - 1]
    flops = ours.ask("open", *network, threads)
    torch.ask("open", *network, threads)
    with tempfile.NamedTemporaryFile(suffix=".outputs") as file:
        ours.ask("outputs", file.name)
        differences = torch.ask("compare", file.name)
    if not max(differences.values()) <= TOLERANCE:
        sys.exit(f"mlp_table: network {number}: outputs differ by {differences}")
    peak = ours.ask("peak")["flops"]
    inputs, hidden, layers, outputs, batch = network
    for job in ("forward", "train"):
        once = [s.ask(job, 1)["seconds"] for s in (ours, torch)]
        calls = [max(1, round(options.turn / t)) for t in once]
        turns = sum(c * t for c, t in zip(calls, once))
        rounds = max(2 if options.quick else 3, min(options.rounds, round(options.seconds / turns)))
        samples = report.in_turns(lambda: ours.ask(job, calls[0])["seconds"] / calls[0],
                                  lambda: torch.ask(job, calls[1])["seconds"] / calls[1], rounds)
        ratio, spread = report.summary([b / a for a, b in zip(*samples)])
        own, peer = (report.summary(s)[0] for s in samples)
        yield {"network": number, "layers": f"{inputs}-{hidden}x{layers}-{outputs}", "batch": batch, "pass": job,
               "threads": threads, "ms": 1e3 * own, "torch_ms": 1e3 * peer, "ratio": ratio,
               "of_peak": flops[job + "_flops"] / own / peak, "difference": differences[job], "spread": spread}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mlp", required=True, help="the program built from bench/mlp.cpp")
    parser.add_argument("--python", default=sys.executable, help="a Python with PyTorch")
    parser.add_argument("--rounds", type=int, default=15, help="at most; large networks get fewer")
    parser.add_argument("--turn", type=float, default=0.03, help="seconds of a turn of a small network")
    parser.add_argument("--seconds", type=float, default=2, help="of the rounds of one network and pass")
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, os.cpu_count() or 1}))
    parser.add_argument("--networks", type=int, nargs="+", choices=range(1, 10), default=range(1, 10), metavar="1-9")
    parser.add_argument("--quick", action="store_true", help="only see that all is there and computes the same")
    parser.add_argument("--output", default=os.path.join(HERE, "results"))
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.turn, options.networks, options.threads = 2, 1e-4, [1], [1]
    environment = report.best_environment()
    rows = []
    for threads in options.threads:
        ours = report.Server([options.mlp, "--serve"])
        torch = report.Server([options.python, os.path.join(HERE, "torch_mlp.py")],
                              {**environment, **report.thread_environment(threads)})
        for number in options.networks:
            for row in measure(ours, torch, number, threads, options):
                rows.append(row)
                print(f"network {number} {row['pass']:8} {threads} threads: {row['ms']:9.3f} ms, PyTorch "
                      f"{row['torch_ms']:9.3f} ms, {row['ratio']:5.2f} times faster", flush=True)
        ours.close()
        torch.close()
    facts = report.about(options.mlp, versions=report.torch_version(options.python), environment=environment)
    settings = " ".join(f"{n}={v}" for n, v in environment.items())
    report.write_results(options.output, "mlp", facts, rows, report.table(rows) + f"""
Times faster than PyTorch eager: the median over the rounds. PyTorch has the best environment we know
(below), without which its training steps are several times slower on some machines. A training step is forward, mean squared
error, backward and SGD. `difference`: of the outputs (train: after one training step), relative to the
largest. Environment of PyTorch: {settings or "as it is"}.
""")
    for threads in options.threads:
        chosen = [r for r in rows if r["threads"] == threads]
        groups = {}
        for r in chosen:
            groups.setdefault(f"{r['network']}", {})[r["pass"]] = r["ratio"]
        title = f"Perceptrons: times faster than PyTorch, {threads} thread{'s' if threads > 1 else ''}"
        report.write(options.output, f"mlp_{threads}_threads.svg",
                     report.bars(title, f"network; dashes: as fast; {facts['processor']}", list(groups),
                                 ["forward", "train"], groups, {g: {"forward": 1, "train": 1} for g in groups}))


if __name__ == "__main__":
    main()
