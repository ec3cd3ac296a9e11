#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The proof: builds every benchmark, runs it beside its peers and writes tables (Markdown), pictures
# (SVG) and numbers (JSON) to bench/results. Leave the machine alone meanwhile.
#
#   bench/run.sh                  everything, a quarter of an hour on two cores, and the compilation
#   bench/run.sh linear train     only these
#
# A peer that is not installed is left out, and is named. MMREC_RESULTS is another folder for the
# results; MMREC_TORCH_PYTHON a Python with another PyTorch.
set -euo pipefail
cd "$(dirname "$0")/.."
all=(scan linear elementwise modules recurrence accuracy mlp train)
wanted=("${@:-${all[@]}}")
results=${MMREC_RESULTS:-bench/results}
build=build
targets=()
for name in "${wanted[@]}"; do
  if [[ ! " ${all[*]} " == *" $name "* || ! -e bench/$name.cpp ]]; then
    echo "bench/run.sh: there is no benchmark '$name'; there are: ${all[*]}" >&2
    exit 2
  fi
  targets+=("bench_$name")
done

cmake/dependencies.sh
# Of libdnnl-dev only the library for CPUs is used: it is installed and found without OpenCL.
peers=(libdnnl-dev libopenblas0-pthread libblis4-pthread python3-torch)
for peer in "${peers[@]}"; do  # one at a time: a system that lacks one may have the others
  cmake/dependencies.sh "$peer" || echo "$peer could not be installed: this peer will be absent."
done
cmake --preset release -DMMREC_BENCHMARKS_SMOKE=OFF ${MMREC_TORCH_PYTHON:+-DMMREC_TORCH_PYTHON=$MMREC_TORCH_PYTHON}
cmake --build --preset release --parallel "$(nproc)" --target "${targets[@]}"
python=$(sed -n 's/^MMREC_TORCH_PYTHON:[A-Z]*=//p' $build/CMakeCache.txt)
raw=$(mktemp -d)
trap 'rm -rf "$raw"' EXIT
mkdir -p "$results"

# program <name> <result>: a benchmark that holds its peers in its own process.
program() {
  local name=$1 result=$2
  $build/bench/"$name" --json "$raw/$result.json"
  bench/support/report.py "$result" --input "$raw/$result.json" --output "$results" --build $build
}

# pictures <result> <options of report.py...>: drawn from what is in the results.
pictures() {
  bench/support/report.py "$1" --input "$results/$1.json" --output "$results" --build $build \
    --pictures-only "${@:2}"
}

# beside_torch <name>: one that takes turns with a Python process, left out where none has PyTorch.
beside_torch() {
  if [[ -z $python ]]; then
    echo "$1: without PyTorch, which no Python here has (Debian: apt-get install python3-torch)"
    return 0
  fi
  "bench/$1_table.py" "--$1" "$build/bench/$1" --python "$python" --output "$results"
}

for name in "${wanted[@]}"; do
  printf '\n== %s ==\n' "$name"
  case $name in
    scan)
      program scan scan_copy
      beside_torch scan ;;
    linear)
      program linear linear
      pictures linear --only dtype=float --bars of_peak of_read over_best --split pass weights threads ;;
    elementwise | modules)
      if [[ -n $python ]]; then beside_torch "$name"; else program "$name" "$name"; fi
      pictures "$name" --bars '*of_copy' --split dtype elements threads ;;
    recurrence)
      program recurrence recurrence
      pictures recurrence --bars of_peak --split pass time threads ;;
    accuracy)
      $build/bench/accuracy ${python:+--python "$python"} --script bench/accuracy_torch.py \
        --json "$raw/accuracy.json" >/dev/null
      bench/support/report.py accuracy --input "$raw/accuracy.json" --output "$results" --build $build ;;
    mlp | train) beside_torch "$name" ;;
  esac
done
printf '\nResults are in %s. Before and after: bench/compare.py OLD.json NEW.json\n' "$results"
