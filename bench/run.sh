#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The proof: builds every benchmark, runs it beside its peers and writes tables (Markdown), pictures
# (SVG) and numbers (JSON) to bench/results. Leave the machine alone meanwhile.
#
#   bench/run.sh                  everything, about a quarter of an hour
#   bench/run.sh linear train     only these
#
# A peer that is not installed is left out, and is named. MMREC_RESULTS is another folder for the
# results; MMREC_TORCH_PYTHON a Python with another PyTorch.
set -euo pipefail
cd "$(dirname "$0")/.."
all=(scan linear elementwise accuracy mlp train)
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
peers=(libdnnl-dev libopenblas0-pthread libblis4-pthread python3-torch)
cmake/dependencies.sh "${peers[@]}" || echo "Peers that could not be installed will be absent."
cmake --preset release ${MMREC_TORCH_PYTHON:+-DMMREC_TORCH_PYTHON=$MMREC_TORCH_PYTHON}
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
  bench/support/report.py "$1" --input "$results/$1.json" --output "$results" --pictures-only "${@:2}"
}

# beside_torch <name> <options...>: one that takes turns with a Python process.
beside_torch() {
  if [[ -z $python ]]; then
    echo "$1: skipped beside PyTorch, which no Python here has (Debian: apt-get install python3-torch)"
  elif [[ -e bench/$1_table.py ]]; then
    "bench/$1_table.py" "--$1" "$build/bench/$1" --python "$python" --output "$results" "${@:2}"
  fi
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
    elementwise)
      if [[ -n $python ]]; then
        beside_torch elementwise
      else
        program elementwise elementwise
      fi
      pictures elementwise --bars '*of_copy' --split dtype elements threads ;;
    accuracy)
      $build/bench/accuracy ${python:+--python "$python"} --script bench/accuracy_torch.py --output "$results" ;;
    mlp | train) beside_torch "$name" --build $build ;;
  esac
done
printf '\nResults are in %s. Before and after: bench/compare.py OLD.json NEW.json\n' "$results"
