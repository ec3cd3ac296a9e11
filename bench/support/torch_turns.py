# SPDX-License-Identifier: Apache-2.0
"""A benchmark program and PyTorch in turns: rows that the program measured in its own process get "over_torch".

A script that uses this has calls(case), which returns what PyTorch runs for a case, and is its own server:

    sys.exit(torch_turns.main(__doc__, __file__, "elementwise", ["operation", "dtype", "elements"], calls, columns, note))

Line protocol of both servers: the fields of a case, threads and repeats -> seconds per call; repeats 0 asks for the
number of calls that fill a millisecond.
"""
import argparse
import os
import subprocess
import sys
import tempfile
import time

import report


def serve(calls, fields):
    import torch

    def seconds(function, repeats):
        start = time.perf_counter()
        for _ in range(repeats):
            function()
        return time.perf_counter() - start

    cached, function = None, None
    for line in sys.stdin:
        *case, threads, repeats = line.split()
        torch.set_num_threads(int(threads))
        if cached != case:
            values = [int(word) if word.isdigit() else word for word in case]
            cached, function = case, calls(**dict(zip(fields, values)))
        function()
        repeats = int(repeats)
        if repeats:
            print(seconds(function, repeats) / repeats, flush=True)
            continue
        repeats = 1
        while (spent := seconds(function, repeats)) < 2.5e-4:
            repeats *= 2
        print(max(1, round(repeats * 1e-3 / spent)), flush=True)


def over_torch(servers, case, rounds):
    repeats = [max(1, int(s.ask(*case, 0))) for s in servers]
    ours, peer = report.in_turns(*(lambda s=s, r=r: s.ask(*case, r) for s, r in zip(servers, repeats)), rounds)
    return report.summary([p / o for o, p in zip(ours, peer)])[0]


def main(description, script, name, fields, calls, columns, note):
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(f"--{name}", dest="program", help=f"the program of bench/{name}.cpp")
    parser.add_argument("--python", default=sys.executable, help="a Python with PyTorch")
    parser.add_argument("--output", help="directory of the results")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, nargs="*", default=[1], help="thread counts")
    parser.add_argument("--quick", action="store_true", help="only see that all is there")
    parser.add_argument("--serve", action="store_true", help="answer timing requests with PyTorch")
    options = parser.parse_args()
    if options.serve:
        return serve(calls, fields)
    if not options.program or not options.output:
        parser.error(f"--{name} and --output are needed")
    if options.quick:
        options.rounds = 2
    quick = ["--quick", "--seconds", "1e-5"] if options.quick else []
    with tempfile.TemporaryDirectory() as directory:
        results = os.path.join(directory, "rows.json")
        threads = [word for n in options.threads for word in ("--threads", str(n))]
        subprocess.run([options.program, *quick, "--rounds", str(options.rounds), "--json", results, *threads],
                       check=True)
        rows = report.load_rows(results)
    servers = [report.Server([options.program, "--serve"]),
               report.Server([options.python, os.path.abspath(script), "--serve"])]
    for row in rows:
        row["over_torch"] = over_torch(servers, [row[k] for k in (*fields, "threads")], options.rounds)
    for server in servers:
        server.close()
    text = report.table(rows, columns)
    print(text)
    facts = report.about(options.program, versions=report.torch_version(options.python))
    report.write_results(options.output, name, facts, rows, text + note)
    return 0
