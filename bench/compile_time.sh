#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# How long a translation unit takes to compile (-O2, best of three: other work on the machine only
# ever adds time), against its budget. Usage: bench/compile_time.sh [compiler]; fails above budget.
set -euo pipefail
compiler=${1:-${CXX:-c++}}
include=$(cd "$(dirname "$0")/../include" && pwd)
object=$(mktemp)
trap 'rm -f "$object"' EXIT

measure() {  # <header> <budget in milliseconds> <source>
  local best='' start elapsed
  for _ in 1 2 3; do
    start=$(date +%s%N)
    "$compiler" -std=c++20 -O2 -I"$include" -x c++ -c -o "$object" - <<< "$3"
    elapsed=$((($(date +%s%N) - start) / 1000000))
    if [[ -z $best || $elapsed -lt $best ]]; then best=$elapsed; fi
  done
  printf '%-18s %5d ms of %5d ms\n' "$1" "$best" "$2"
  if ((best > $2)); then over_budget=1; fi
}

call_cumprod='
void call(const float* p, float* q) {
  mmrec::view<const float, 3> gamma{p, {8, 1024, 64}};
  mmrec::view<float, 3> y{q, {8, 1024, 64}};
  mmrec::cumprod(mmrec::backend::simd{}, gamma, y);
}'
over_budget=0
measure mmrec/scan.hpp 3000 "#include <mmrec/scan.hpp>$call_cumprod"
measure mmrec/mmrec.hpp 8000 "#include <mmrec/mmrec.hpp>$call_cumprod"
exit $over_budget
