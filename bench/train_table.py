#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A training step beside PyTorch: the same model, weights, batches and threads, in turns.

Two processes answer requests, this library's (bench/train --serve) and PyTorch's (bench/torch_train.py
--serve), never both at once. Before anything is timed, the PyTorch program is checked against the
fixtures, and the first losses of the two against each other.

    bench/train_table.py --train build/bench/train --python /usr/bin/python3 --output bench/results
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "support"))
import report  # noqa: E402

ASKED = 12  # times faster
MODELS = {
    "defaults": [],
    "reference": ["--width", "128", "--layers", "4", "--ffn", "512", "--slots", "1024", "--mix", "0.1",
                         "--mix-gate", "--no-convex", "--update", "reference", "--rate", "1e-3", "--floor", "1e-4"],
}
WARM_UP = 4
LOSS_TOLERANCE = 1e-4  # relative, of the first steps: float sums in another order, and their consequences


class Contender:
    def __init__(self, command, environment=None):
        self.server = report.Server(command, environment)
        self.steps, self.losses = 0, []

    def train(self, steps=None):
        """Tokens are counted by the caller: steps per second."""
        steps = steps or self.steps
        answer = self.server.ask("steps", steps)
        self.losses += answer["losses"]
        return steps / answer["seconds"]

    def warm_up(self, seconds):
        self.train(WARM_UP)
        self.steps = max(2, round(seconds * self.train(2)))


def measure(name, model, options, threads):
    """Ours, PyTorch as it was installed, and PyTorch in the environment that suits it best."""
    own = report.thread_environment(threads)
    environments = (own, {**own, **report.best_environment()})
    peer = [options.python, os.path.join(HERE, "torch_train.py"), "--serve", "--threads", str(threads), "--model"]
    with tempfile.TemporaryDirectory() as directory:
        exported = os.path.join(directory, "model.safetensors")
        ours = Contender([options.train, "--serve", "--threads", str(threads), *model,
                          *(["--batch", "2", "--context", "16"] if options.quick else [])])
        facts = ours.server.ask("export", exported, 64)
        contenders = [ours, *(Contender([*peer, exported], e) for e in environments)]
        for c in contenders:
            c.warm_up(options.seconds)
    first = [c.losses[:WARM_UP] for c in contenders]
    difference = max(abs(a - b) / abs(b) for losses in first[1:] for a, b in zip(first[0], losses))
    if not difference <= LOSS_TOLERANCE:
        sys.exit(f"train_table: {name}: first losses of ours and PyTorch's: {first}")
    peaks = []

    def our_turn():
        peaks.append(ours.server.ask("peak")["flops"])
        return ours.train()

    samples = report.in_turns(our_turn, contenders[1].train, options.rounds, contenders[2].train)
    ratios = [report.summary([a / b for a, b in zip(samples[0], s)]) for s in samples[1:]]
    speeds = [report.summary(s)[0] for s in samples]
    memory = [c.server.ask("memory") for c in contenders[:2]]
    for c in contenders:
        c.server.close()
    mib = [(m["peak"] / 2**20, (m["peak"] - m["imported"]) / 2**20) for m in memory]
    peak = report.summary(peaks)[0]
    return {
        "model": name, "parameters": facts["parameters"], "threads": threads,
        "tokens_per_second": speeds[0] * facts["tokens"], "torch_tokens_per_second": speeds[1] * facts["tokens"],
        "ratio": ratios[0][0], "asked": ASKED, "torch_tuned_tokens_per_second": speeds[2] * facts["tokens"],
        "ratio_to_tuned": ratios[1][0], "of_peak": speeds[0] * facts["flops"] / peak, "peak_gflops": peak / 1e9,
        "mib": mib[0][0], "model_mib": mib[0][1], "torch_mib": mib[1][0], "torch_model_mib": mib[1][1],
        "loss_difference": difference, "spread": report.summary(samples[0])[1], "ratio_spread": ratios[0][1],
    }


COLUMNS = {"model": "model", "parameters": "parameters", "threads": "threads", "tokens_per_second": "tokens/s",
           "spread": "spread", "torch_tokens_per_second": "PyTorch", "ratio": "times faster", "asked": "asked",
           "torch_tuned_tokens_per_second": "PyTorch, tuned", "ratio_to_tuned": "times faster",
           "of_peak": "of FMA peak", "mib": "peak MiB", "torch_mib": "PyTorch", "model_mib": "of these the model",
           "torch_model_mib": "PyTorch"}
NOTE = """
Models: the defaults of examples/pretrain (three blocks of width 144), and the form and sizes of the MM-Rec
reference (four blocks of width 128, second gate, 1024 memory slots, all rewritten by every pass). Batches
of 12 x 64 tokens, AdamW, float. The ratio is the median over the rounds. Flops are those of the products in
forward and backward; the peak is a loop of multiply-adds in registers, timed in the same rounds. Memory is
the largest resident size, and how much of it came after imports, text and code. PyTorch runs the reference
code's structure: a TorchScript loop over time for the recurrence. First as it was installed, then tuned: with
environment variables that make OpenBLAS use its best kernels for this CPU and OpenMP's threads wait without
spinning, for on two cores they stand in the way of PyTorch's own.
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True, help="the program built from bench/train.cpp")
    parser.add_argument("--python", default=sys.executable, help="a Python with PyTorch")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each turn")
    parser.add_argument("--threads", type=int, nargs="+", default=[os.cpu_count() or 1])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--quick", action="store_true", help="only see that all is there and computes the same")
    parser.add_argument("--output", default=os.path.join(HERE, "results"))
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds, options.threads = 2, 0.01, [1]
    if options.rounds < 2:
        parser.error("--rounds: at least 2")
    checked = subprocess.run([options.python, os.path.join(HERE, "torch_train.py"), "--check"],
                             capture_output=True, text=True, check=False)
    if checked.returncode:
        sys.exit(checked.stderr)
    rows, profiles = [], {}
    text = ""
    for threads in options.threads:
        for name in options.models:
            rows.append(measure(name, MODELS[name], options, threads))
            r = rows[-1]
            print(f"{name}, {threads} threads: {r['tokens_per_second']:.0f} tokens/s, PyTorch "
                  f"{r['torch_tokens_per_second']:.0f}, {r['ratio']:.1f} times faster (asked {ASKED}), tuned "
                  f"{r['torch_tuned_tokens_per_second']:.0f}, {r['ratio_to_tuned']:.1f} times; "
                  f"{r['of_peak']:.2f} of the FMA peak", flush=True)
    for threads in options.threads if not options.quick else []:
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            command = [options.train, "--profile", "--threads", str(threads), "--json", file.name]
            shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            text += f"\n## Parts of a step, defaults, {threads} threads\n\n" + shown
            profiles[str(threads)] = json.load(file)
    facts = report.about(options.train, versions=report.torch_version(options.python),
                         tuned=report.best_environment(), fixtures=json.loads(checked.stdout))
    report.write_results(options.output, "train", facts, rows, report.table(rows, COLUMNS) + NOTE + text)
    path = os.path.join(options.output, "train.json")
    with open(path, encoding="utf-8") as file:
        result = json.load(file)
    report.write(options.output, "train.json", json.dumps({**result, "profile": profiles}, indent=1) + "\n")
    groups = {f"{r['model']}, {r['threads']} threads": r for r in rows}
    series = {"mmrec": "tokens_per_second", "PyTorch": "torch_tokens_per_second",
              "PyTorch, tuned": "torch_tuned_tokens_per_second"}
    values = {g: {name: r[field] for name, field in series.items()} for g, r in groups.items()}
    asked = {g: {"mmrec": ASKED * r["torch_tokens_per_second"]} for g, r in groups.items()}
    report.write(options.output, "train.svg",
                 report.bars("Training: tokens per second", f"dashes: asked; {facts['processor']}", list(groups),
                             list(series), values, asked))


if __name__ == "__main__":
    main()
