#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds and runs the CUDA suite on a machine with a GPU; fails where there is none. Needs nvcc 12 or
# newer, CMake, Catch2 and Eigen, on the system or below .carry; the training loop's tests also xsimd
# and the packages of the examples, and are left out, saying so, where these are missing. Arguments
# go to CMake's configuration: tests/run_gpu.sh -DCMAKE_CUDA_ARCHITECTURES=80
# With --sanitize before them: builds and runs a few tests under compute-sanitizer instead.
set -euo pipefail
cd "$(dirname "$0")/.."
sanitize=0
if [[ ${1:-} == --sanitize ]]; then sanitize=1; shift; fi
jobs=$(nproc)
generator=()
if ! command -v ninja >/dev/null; then generator=(-G "Unix Makefiles"); fi
if ! nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader; then
  echo "CUDA tests were not run: there is no GPU." >&2
  exit 1
fi
start=$SECONDS
configure() {  # configure <preset> <arguments>
  cmake --preset "$1" "${generator[@]}" -DCMAKE_PREFIX_PATH="$PWD/.carry" "${@:2}"
}

# memcheck finds what lies outside an array only where each array is an allocation of its own, as in
# the *_device tests; the others' arrays are parts of a few large ones (tests/cuda/main.cpp), and
# there it sees scratch and shared memory. Small cases: a kernel takes up to a hundred times as long.
declare -A sanitized=(
  [scan_fixtures]="*tested*" [norm_fixtures]="*tested*" [attention_fixtures]="*tested*"
  [recurrence_fixtures]="*tested*" [loss]="*ignored rows*,*first and last class*"
  [embedding]="*ids with a stride*,*finite differences*"
  [modules_device]="*ids out of range*,*the loss that is returned*"
)
sanitizer() {  # sanitizer <tool> <test>
  local log=build-cuda/$1_$2.log code=0 options=()
  if [[ $1 == memcheck ]]; then options=(--padding 64); fi
  # The walk's warps hand over through barriers that racecheck does not follow: it warns of each.
  if [[ $1 == racecheck ]]; then options=(--kernel-name-exclude kernel_substring=walk_kernel); fi
  timeout 100 compute-sanitizer --tool "$1" --error-exitcode 1 "${options[@]}" \
    "build-cuda/tests/cuda/cuda_$2_test" "${sanitized[$2]}" -w NoAssertions \
    >"$log" 2>&1 || code=$?
  if ((code)); then head -50 "$log"; fi
  echo "$1 $2: exit code $code, $(grep SUMMARY "$log" || echo "no summary")"
  return "$code"
}
if ((sanitize)); then
  configure cuda "$@"
  targets=("${!sanitized[@]}")
  targets=("${targets[@]/#/cuda_}")
  cmake --build --preset cuda --parallel "$jobs" --target "${targets[@]/%/_test}"
  echo "built in $((SECONDS - start)) s"
  export MMREC_REQUIRE_GPU=1
  running=()
  for tool in memcheck racecheck; do
    for test in "${!sanitized[@]}"; do
      sanitizer "$tool" "$test" &
      running+=($!)
    done
  done
  failed=0
  for process in "${running[@]}"; do wait "$process" || failed=1; done
  echo "built and run in $((SECONDS - start)) s"
  exit "$failed"
fi

# The training loop's few units wait for each other: beside the suite they cost no time.
cannot_configure=77
(
  configure cuda-train "$@" || exit "$cannot_configure"
  cmake --build --preset cuda-train --parallel $((jobs / 4 + 1))
) &
train_build=$!
configure cuda "$@"
cmake --build --preset cuda --parallel "$jobs"
train=1
wait "$train_build" || {
  code=$?
  if ((code != cannot_configure)); then exit "$code"; fi
  train=0
}
echo "built in $((SECONDS - start)) s"
# Tests start their context, wait for the device and compute what it should find, so as many run at
# once as there are cores.
export MMREC_REQUIRE_GPU=1
ctest --preset cuda --output-on-failure --parallel "$jobs" --timeout 300
if ((train)); then
  ctest --preset cuda-train --output-on-failure --parallel 4 --timeout 300
else
  echo "The training loop's tests on the GPU were not built: CMake said above what is missing."
fi
echo "built and run in $((SECONDS - start)) s"
