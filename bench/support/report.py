#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks' results have in common: machine and versions, asking two programs in turns,
JSON, Markdown tables, and pictures that can be read on light and on dark pages.

A result file is {"benchmark", "about", "rows"}; what a benchmark writes is its rows, or {"rows", "versions" of peers,
"note" for below the table}. In a row, text, whole numbers and truth values name
what was measured; decimal numbers are measured; "spread" is (third - first quartile) / median.

    report.py linear --input raw.json --output bench/results --build build --bars '*of_peak' --split pass threads
"""
import argparse
import fnmatch
import glob
import html
import json
import math
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time


# --- machine and versions --------------------------------------------------------------------------
def read(path, default=""):
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return default


def output_of(*command):
    """First line a command prints, or nothing where there is no such command."""
    if not shutil.which(command[0]):
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout or done.stderr).strip().split("\n")[0] if done.returncode == 0 else ""


def processor():
    names = re.findall(r"^model name\s*:\s*(.+)$", read("/proc/cpuinfo"), re.M)
    return names[0] if names else platform.processor() or platform.machine()


def caches():
    """{"L1 data": "48K", ...} of the first core."""
    found = {}
    for index in sorted(glob.glob("/sys/devices/system/cpu/cpu0/cache/index*")):
        kind = read(index + "/type")
        if kind != "Instruction":
            name = f"L{read(index + '/level')}" + (" data" if kind == "Data" else "")
            found[name] = read(index + "/size")
    return found


def vector_extensions():
    flags = set((re.findall(r"^flags\s*:\s*(.+)$", read("/proc/cpuinfo"), re.M) or [""])[0].split())
    known = ("sse4_2", "avx2", "fma", "f16c", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "asimd", "sve")
    return [name for name in known if name in flags]


def thread_environment(threads):
    """OpenBLAS has threads of its own, which PyTorch's set_num_threads does not reach."""
    return {"OPENBLAS_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}


def best_environment():
    """What makes PyTorch and OpenBLAS as fast as they can be; without it they may be straw men.

    An OpenBLAS older than an Intel CPU does not know its model number and falls back to SSE3. OpenMP threads
    that spin while they wait take the cores from PyTorch's backward, which runs on threads of its own.
    """
    found, best = set(vector_extensions()), {"OMP_WAIT_POLICY": "passive"}
    if "GenuineIntel" in read("/proc/cpuinfo"):
        cores = (("avx512_bf16", "Cooperlake"), ("avx512f", "SkylakeX"), ("avx2", "Haswell"))
        best["OPENBLAS_CORETYPE"] = next((core for extension, core in cores if extension in found), "")
    return {name: value for name, value in best.items() if value and name not in os.environ}


def build_facts(path):
    """Compiler, flags and build type, from the CMake cache of the build that a program or folder is part of."""
    folder = os.path.abspath(path)
    while not os.path.exists(os.path.join(folder, "CMakeCache.txt")):
        if folder == os.path.dirname(folder):
            sys.exit(f"report: {path} is in no build folder of CMake, and results have to name their compiler")
        folder = os.path.dirname(folder)
    cache = dict(re.findall(r"^([A-Za-z0-9_]+):[A-Z]+=(.*)$", read(os.path.join(folder, "CMakeCache.txt")), re.M))
    kind = cache.get("CMAKE_BUILD_TYPE", "")
    flags = [cache.get("CMAKE_CXX_FLAGS", ""), cache.get("CMAKE_CXX_FLAGS_" + kind.upper(), ""),
             "-march=native" if cache.get("MMREC_NATIVE") == "ON" else "",
             "-O0" if cache.get("MMREC_BENCHMARKS_SMOKE") == "ON" else ""]
    return {"compiler": output_of(cache["CMAKE_CXX_COMPILER"], "--version"),
            "flags": " ".join(f for f in flags if f), "build_type": kind}


def revision():
    """Of the sources: results that were just written do not make them dirty."""
    here = os.path.dirname(os.path.abspath(__file__))
    name = output_of("git", "-C", here, "describe", "--always")
    changes = output_of("git", "-C", here, "status", "--porcelain", "--untracked-files=no", "--", ":/",
                        ":(top,exclude)bench/results")
    return (name or "unknown") + ("-dirty" if changes else "")


def torch_version(python):
    return {"PyTorch": output_of(python, "-c", "import torch; print(torch.__version__)")}


def busy_seconds():
    """CPU time of all programs since the machine started, and of this one and what it ran to its end."""
    ticks = read("/proc/stat").split("\n")[0].split()[1:]
    everybody = sum(int(t) for i, t in enumerate(ticks[:8]) if i not in (3, 4)) / os.sysconf("SC_CLK_TCK")
    used = os.times()
    return everybody, used.user + used.system + used.children_user + used.children_system


STARTED = (time.monotonic(), *busy_seconds())


def others():
    """The share of the machine that other programs took since this one started; to be asked at the end."""
    now = (time.monotonic(), *busy_seconds())
    wall, everybody, own = (b - a for a, b in zip(STARTED, now))
    return max(0.0, (everybody - own) / (wall * (os.cpu_count() or 1)))


def about(build, **more):
    """What has to be known to compare results of two runs; `build` is the program that was measured, or its build
    folder. Asked for when all that was measured has ended."""
    return {
        "processor": processor(), "cores": os.cpu_count(), "caches": caches(), "vectors": vector_extensions(),
        "system": f"{platform.system()} {platform.release()}", "revision": revision(), **build_facts(build),
        **({} if "others" in more else {"others": round(others(), 3)}), **more,
    }


def about_line(facts):
    words = [facts["processor"], f"{facts['cores']} cores"]
    words += [f"{size} {name}" for name, size in facts["caches"].items()]
    words += [str(facts[name]) for name in ("compiler", "flags") if facts[name]]
    words += [f"{name} {version}" for name, version in facts.get("versions", {}).items()]
    words.append(f"revision {facts['revision']}")
    if (facts["others"] or 0) > 0.02:
        words.append(f"other programs took {100 * facts['others']:.0f} % of the machine meanwhile")
    return "; ".join(words)


# --- measuring in turns ----------------------------------------------------------------------------
class Server:
    """A process that answers one line to every request line."""

    def __init__(self, command, environment=None):
        self.command = command
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        env={**os.environ, **(environment or {})})

    def ask(self, *words):
        """The answer, as JSON. An answer that is none, or an error, ends the program."""
        try:
            self.process.stdin.write(" ".join(map(str, words)) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline().strip()
            answer = json.loads(line)
        except (ValueError, BrokenPipeError):
            sys.exit(f"{' '.join(self.command)} answered: {line if self.process.poll() is None else 'nothing'}")
        if isinstance(answer, dict) and "error" in answer:
            sys.exit(f"{' '.join(self.command)}: {answer['error']}")
        return answer

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def in_turns(first, second, rounds, *others):
    """Samples of each measuring function; who begins changes from round to round."""
    functions = (first, second, *others)
    samples = tuple([] for _ in functions)
    for turn in range(rounds):
        for k in range(len(functions)):
            i = (turn + k) % len(functions)
            samples[i].append(functions[i]())
    return samples


def summary(samples):
    """Median and spread."""
    if len(samples) < 2:
        return samples[0], 0.0
    low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
    middle = statistics.median(samples)
    return middle, (high - low) / middle


# --- tables and pictures ---------------------------------------------------------------------------
def digits(value):
    """Three digits, text as it is."""
    if isinstance(value, bool) or not isinstance(value, float):
        return str(value)
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    size = math.floor(math.log10(abs(value)))
    return f"{value:.1e}" if size < -4 else f"{value:.{max(0, 2 - size)}f}"


def table(rows, columns=None):
    """Markdown; columns {field: heading}, by default every field under its own name."""
    columns = columns or {name: name.replace("_", " ") for row in rows for name in row}
    numbers = {c: all(isinstance(r.get(c, 0), (int, float)) for r in rows) for c in columns}
    lines = ["| " + " | ".join(columns.values()) + " |",
             "|" + "|".join("---:" if numbers[c] else "---" for c in columns) + "|"]
    for r in rows:
        cells = (f"{100 * r[c]:.0f} %" if c == "spread" and c in r else digits(r.get(c, "")) for c in columns)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


STYLE = """<style>
text{font:12px sans-serif;fill:#222}.title{font-size:16px;font-weight:bold}.page{fill:#fff}
.grid{stroke:#e3e3e3}.axis{stroke:#222}.asked{stroke:#222;stroke-width:1.5;stroke-dasharray:3 2}
.c0{fill:#0072b2}.c1{fill:#d55e00}.c2{fill:#009e73}.c3{fill:#cc79a7}.c4{fill:#b8860b}.c5{fill:#56b4e9}.c6{fill:#888}
@media (prefers-color-scheme: dark){text{fill:#e6edf3}.page{fill:#0d1117}.grid{stroke:#2d333b}
.axis,.asked{stroke:#e6edf3}.c0{fill:#56b4e9}.c1{fill:#ff9a4d}.c2{fill:#3ddcae}.c3{fill:#e8a7c9}.c4{fill:#e5c04b}
.c5{fill:#2f81c7}.c6{fill:#aaa}}
</style>"""


def scale_of(values, logarithmic):
    """The axis: its ends, its ticks, and where a value lies between them (0 to 1)."""
    high = max(values)
    if logarithmic:
        low = 10 ** math.floor(math.log10(min(1, *values)))
        top = 10 ** math.ceil(math.log10(high * 1.05))
        decades = range(round(math.log10(low)), round(math.log10(top)) + 1)
        ticks = [s * 10.0 ** e for e in decades for s in (1, 2, 5) if s * 10.0 ** e <= top * 1.001]
        return ticks, lambda v: math.log(max(v, low) / low) / math.log(top / low)
    step = 10 ** math.floor(math.log10(high))
    step = next(s for s in (step / 5, step / 2, step, 2 * step) if high / s <= 8)
    top = step * math.ceil(high * 1.05 / step)
    return [i * step for i in range(round(top / step) + 1)], lambda v: v / top


def bars(title, caption, groups, series, values, asked=None, logarithmic=False):
    """Grouped bars as SVG. values[group][series] or None; asked: the same, drawn as dashes."""
    asked = asked or {}
    height, left, right, top, bottom = 420, 60, 20, 72, 60
    room = max(26 * len(series), *(7 * len(group) + 10 for group in groups))  # of a group, for its texts
    width = max(860, left + right + room * len(groups))
    drawn = [v for group in values.values() for v in group.values() if v]
    drawn += [v for group in asked.values() for v in group.values() if v]
    ticks, place = scale_of(drawn, logarithmic)

    def y(value):
        return height - bottom - place(value) * (height - bottom - top)

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" viewBox="0 0 {width} {height}" role="img">',
           f"<title>{html.escape(title)}</title>", STYLE, '<rect class="page" width="100%" height="100%"/>',
           f'<text class="title" x="{width / 2}" y="24" text-anchor="middle">{html.escape(title)}</text>',
           f'<text x="{width / 2}" y="{height - 8}" text-anchor="middle">{html.escape(caption)}</text>']
    x = left
    for i, name in enumerate(series):
        out.append(f'<rect class="c{i % 7}" x="{x}" y="40" width="14" height="10"/>'
                   f'<text x="{x + 20}" y="50">{html.escape(name)}</text>')
        x += 40 + 7 * len(name)
    for tick in ticks:
        out.append(f'<path class="grid" d="M{left} {y(tick):.1f}H{width - right}"/>'
                   f'<text x="{left - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    group_width = (width - left - right) / len(groups)
    bar = group_width * 0.8 / len(series)
    for g, group in enumerate(groups):
        for i, name in enumerate(series):
            value, wanted = values[group].get(name), asked.get(group, {}).get(name)
            x = left + group_width * (g + 0.1) + bar * i
            if value:
                label = f"{value:.0f}" if value >= 10 else f"{value:.2g}"
                out.append(f'<rect class="c{i % 7}" x="{x:.1f}" y="{y(value):.1f}" width="{bar * 0.92:.1f}" '
                           f'height="{height - bottom - y(value):.1f}"/><text x="{x + bar / 2:.1f}" '
                           f'y="{y(value) - 4:.1f}" text-anchor="middle">{label}</text>')
            if wanted:
                out.append(f'<path class="asked" d="M{x - 1:.1f} {y(wanted):.1f}H{x + bar:.1f}"/>')
        out.append(f'<text x="{left + group_width * (g + 0.5):.1f}" y="{height - bottom + 18}" '
                   f'text-anchor="middle">{html.escape(group)}</text>')
    out += [f'<path class="axis" d="M{left} {height - bottom}H{width - right}"/>', "</svg>", ""]
    return "\n".join(out)


# --- files -----------------------------------------------------------------------------------------
def write(directory, name, text):
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
        file.write(text)


def write_results(directory, benchmark, facts, rows, markdown):
    """NAME.json and NAME.md; the table is preceded by what it was measured on."""
    result = {"benchmark": benchmark, "about": facts, "rows": rows}
    write(directory, benchmark + ".json", json.dumps(result, indent=1) + "\n")
    write(directory, benchmark + ".md", f"# {benchmark}\n\n{about_line(facts)}\n\n{markdown}")


def keys_of(row):
    """The fields that name a row."""
    return {name: value for name, value in row.items() if not isinstance(value, (float, list, dict))}


def load_result(path):
    """A result file, or a plain list of rows as one."""
    with open(path, encoding="utf-8") as file:
        result = json.load(file)
    if not isinstance(result, dict):
        result = {"rows": result}
    rows = result.get("rows")
    if not isinstance(rows, list) or not all(isinstance(r, dict) for r in rows):
        sys.exit(f"{path}: expected a result file, with a list of rows")
    return result


def load_rows(path):
    return load_result(path)["rows"]


def pictures(directory, benchmark, rows, measures, split, caption):
    """A picture for each combination of the fields in `split`: bars of the measures that are there."""
    named = [m for r in rows for m, v in r.items() if isinstance(v, float)]
    series = list(dict.fromkeys(m for m in named if any(fnmatch.fnmatch(m, wanted) for wanted in measures)))
    split = [s for s in split if any(s in r for r in rows)]
    if not series:
        return
    for parts in sorted({tuple(str(r.get(s, "")) for s in split) for r in rows}):
        chosen = [r for r in rows if tuple(str(r.get(s, "")) for s in split) == parts]
        groups = {" x ".join(str(v) for k, v in keys_of(r).items() if k not in split) or benchmark: r for r in chosen}
        label = ", ".join(f"{s} {p}" if p.isdigit() else p for s, p in zip(split, parts))
        values = {g: {m.replace("_", " "): r.get(m) for m in series} for g, r in groups.items()}
        name = "_".join([benchmark, *(re.sub(r"\W+", "_", p) for p in parts)]) + ".svg"
        write(directory, name, bars(f"{benchmark}: {label}" if label else benchmark, caption, list(groups),
                                    [m.replace("_", " ") for m in series], values))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", help="name of the result files")
    parser.add_argument("--input", required=True, help="JSON that a benchmark wrote")
    parser.add_argument("--output", required=True, help="directory of the results")
    parser.add_argument("--build", required=True, help="program that was measured, or its build directory")
    parser.add_argument("--bars", nargs="*", default=[], help="measures to draw, * for any text")
    parser.add_argument("--split", nargs="*", default=[], help="fields that get a picture for each value")
    parser.add_argument("--pictures-only", action="store_true", help="write no JSON and no Markdown")
    parser.add_argument("--only", nargs="*", default=[], help="field=value: draw only rows that have it")
    options = parser.parse_args()
    result = load_result(options.input)
    rows = result["rows"]
    if not rows:
        sys.exit(f"{options.input}: no rows")
    # Who else was running is known to the process that measured.
    facts = about(options.build, others=None, **{name: result[name] for name in ("versions",) if name in result})
    if not options.pictures_only:
        note = f"\n{result['note']}\n" if result.get("note") else ""
        write_results(options.output, options.benchmark, facts, rows, table(rows) + note)
    wanted = dict(word.split("=", 1) for word in options.only)
    rows = [r for r in rows if all(str(r.get(field)) == value for field, value in wanted.items())]
    pictures(options.output, options.benchmark, rows, options.bars, options.split, facts["processor"])


if __name__ == "__main__":
    main()
