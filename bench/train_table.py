#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A training step beside PyTorch: the same model, weights, batches and threads, in turns.

Processes answer requests, this library's in float and in bfloat16 (bench/train --serve) and PyTorch's
(bench/torch_train.py --serve), never two at once. Before anything is timed, the PyTorch program is checked
against the fixtures, and the first losses of all against each other; bfloat16's also after the last step.

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
BFLOAT16_TOLERANCE = 2**-8  # relative, of the mean of some steps: one rounding of a loss to bfloat16
LAST = 20  # steps whose mean loss is compared in the end


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


def mean_difference(losses, wanted):
    """Of the means of equally many losses, relative."""
    return abs(sum(losses) - sum(wanted)) / abs(sum(wanted))


def measure(name, model, options, threads):
    """Ours in float and in bfloat16, beside PyTorch in float as it was installed, in the environment that suits it
    best, and there with autocast to bfloat16."""
    own = report.thread_environment(threads)
    environments = (own, {**own, **report.best_environment()})
    peer = [options.python, os.path.join(HERE, "torch_train.py"), "--serve", "--threads", str(threads), "--model"]
    with tempfile.TemporaryDirectory() as directory:
        exported = os.path.join(directory, "model.safetensors")
        command = [options.train, "--serve", "--threads", str(threads), *model,
                   *(["--batch", "2", "--context", "16"] if options.quick else [])]
        ours = Contender(command)
        facts = ours.server.ask("export", exported, 64)
        narrow = Contender([*command, "--dtype", "bfloat16"])
        contenders = [ours, *(Contender([*peer, exported], e) for e in environments), narrow,
                      Contender([*peer, exported, "--autocast"], environments[1])]
        for c in contenders:
            c.warm_up(options.seconds)
    first = [c.losses[:WARM_UP] for c in contenders[:3]]
    difference = max(abs(a - b) / abs(b) for losses in first[1:] for a, b in zip(first[0], losses))
    if not difference <= LOSS_TOLERANCE:
        sys.exit(f"train_table: {name}: first losses of ours and PyTorch's: {first}")
    peaks = []

    def our_turn():
        peaks.append(ours.server.ask("peak")["flops"])
        return ours.train()

    samples = report.in_turns(our_turn, contenders[1].train, options.rounds, *(c.train for c in contenders[2:]))
    steps = min(len(ours.losses), len(narrow.losses))
    narrow_difference = max(mean_difference(narrow.losses[i:j], ours.losses[i:j])
                            for i, j in ((0, WARM_UP), (max(0, steps - LAST), steps)))
    if not narrow_difference <= BFLOAT16_TOLERANCE:
        sys.exit(f"train_table: {name}: losses in float and bfloat16: {ours.losses}, {narrow.losses}")
    speeds = [report.summary(s)[0] for s in samples]
    memory = [c.server.ask("memory") for c in contenders]
    for c in contenders:
        c.server.close()
    mib = [(m["peak"] / 2**20, (m["peak"] - m["imported"]) / 2**20) for m in memory]
    peak = report.summary(peaks)[0]
    rows = []
    for i, dtype, loss_difference in ((0, "float", difference), (3, "bfloat16", narrow_difference)):
        ratios = [report.summary([a / b for a, b in zip(samples[i], samples[k])]) for k in (1, 2, 4)]
        rows.append({
            "model": name, "dtype": dtype, "parameters": facts["parameters"], "threads": threads,
            "tokens_per_second": speeds[i] * facts["tokens"], "torch_tokens_per_second": speeds[1] * facts["tokens"],
            "ratio": ratios[0][0], "asked": ASKED, "torch_tuned_tokens_per_second": speeds[2] * facts["tokens"],
            "ratio_to_tuned": ratios[1][0], "of_peak": speeds[i] * facts["flops"] / peak, "peak_gflops": peak / 1e9,
            "mib": mib[i][0], "model_mib": mib[i][1], "torch_mib": mib[1][0], "torch_model_mib": mib[1][1],
            **({"torch_autocast_tokens_per_second": speeds[4] * facts["tokens"], "ratio_to_autocast": ratios[2][0]}
               if dtype == "bfloat16" else {}),
            "loss_difference": loss_difference, "spread": report.summary(samples[i])[1],
            "ratio_spread": ratios[0][1],
        })
    return rows


COLUMNS = {"model": "model", "dtype": "dtype", "parameters": "parameters", "threads": "threads",
           "tokens_per_second": "tokens/s", "spread": "spread", "torch_tokens_per_second": "PyTorch",
           "ratio": "times faster", "asked": "asked", "torch_tuned_tokens_per_second": "PyTorch, tuned",
           "ratio_to_tuned": "times faster", "torch_autocast_tokens_per_second": "tuned, autocast",
           "ratio_to_autocast": "times faster", "of_peak": "of FMA peak", "mib": "peak MiB",
           "torch_mib": "PyTorch", "model_mib": "of these the model", "torch_model_mib": "PyTorch"}
NOTE = """
Models: the defaults of examples/pretrain (three blocks of width 144), and the form and sizes of the MM-Rec
reference (four blocks of width 128, second gate, 1024 memory slots, all rewritten by every pass). Batches of
12 x 64 tokens, AdamW. In the rows of bfloat16 ours computes in it with float copies of the parameters, and
PyTorch in float as in the rows above; its own bfloat16 (torch.autocast, tuned) stands beside that. The mean
loss of the last 20 steps is that of the run in float within a rounding to bfloat16. The ratio is the median
over the rounds. Flops are those of the products in forward and backward; the peak is a loop of float
multiply-adds in registers, timed in the same rounds. Memory is the largest resident size, and how much of it
came after imports, text and code. PyTorch runs the reference code's structure: a TorchScript loop over time
for the recurrence. First as it was installed, then tuned: with environment variables that make OpenBLAS use
its best kernels for this CPU and OpenMP's threads wait without spinning, for on two cores they stand in the
way of PyTorch's own.
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
            rows += measure(name, MODELS[name], options, threads)
            for r in rows[-2:]:
                print(f"{name}, {r['dtype']}, {threads} threads: {r['tokens_per_second']:.0f} tokens/s, PyTorch "
                      f"in float {r['torch_tokens_per_second']:.0f}, {r['ratio']:.1f} times faster (asked {ASKED}), "
                      f"tuned {r['torch_tuned_tokens_per_second']:.0f}, {r['ratio_to_tuned']:.1f} times; "
                      f"{r['of_peak']:.2f} of the FMA peak", flush=True)
    for threads in options.threads if not options.quick else []:
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            command = [options.train, "--profile", "--threads", str(threads), "--json", file.name]
            shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            text += f"\n## Parts of a step, defaults, float, {threads} threads\n\n" + shown
            profiles[str(threads)] = json.load(file)
    facts = report.about(options.train, versions=report.torch_version(options.python),
                         tuned=report.best_environment(), fixtures=json.loads(checked.stdout))
    report.write_results(options.output, "train", facts, rows, report.table(rows, COLUMNS) + NOTE + text)
    path = os.path.join(options.output, "train.json")
    with open(path, encoding="utf-8") as file:
        result = json.load(file)
    report.write(options.output, "train.json", json.dumps({**result, "profile": profiles}, indent=1) + "\n")
    runs = {(r["model"], r["threads"], r["dtype"]): r for r in rows}
    groups = {f"{model}, {threads} threads": r for (model, threads, dtype), r in runs.items() if dtype == "float"}
    values = {g: {"mmrec": r["tokens_per_second"],
                  "mmrec, bfloat16": runs[r["model"], r["threads"], "bfloat16"]["tokens_per_second"],
                  "PyTorch, float": r["torch_tokens_per_second"],
                  "PyTorch, float, tuned": r["torch_tuned_tokens_per_second"]} for g, r in groups.items()}
    series = list(next(iter(values.values())))
    asked = {g: {"mmrec": ASKED * r["torch_tokens_per_second"]} for g, r in groups.items()}
    report.write(options.output, "train.svg",
                 report.bars("Training: tokens per second", f"dashes: asked; {facts['processor']}", list(groups),
                             series, values, asked))


if __name__ == "__main__":
    main()
