#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds and runs the CUDA suite on a machine with a GPU; fails where there is none. Needs nvcc 12 or
# newer, CMake, Catch2 and Eigen, on the system or below .carry; the training loop's tests also xsimd
# and the packages of the examples, and are left out, saying so, where these are missing. Arguments
# go to CMake's configuration: tests/run_gpu.sh -DCMAKE_CUDA_ARCHITECTURES=80
set -euo pipefail
cd "$(dirname "$0")/.."
jobs=$(nproc)
generator=()
if ! command -v ninja >/dev/null; then generator=(-G "Unix Makefiles"); fi
if ! nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader; then
  echo "CUDA tests were not run: there is no GPU." >&2
  exit 1
fi
start=$SECONDS
cmake --preset cuda "${generator[@]}" -DCMAKE_PREFIX_PATH="$PWD/.carry" "$@"
train=1
cmake --preset cuda-train "${generator[@]}" -DCMAKE_PREFIX_PATH="$PWD/.carry" "$@" || train=0
# The training loop's few units wait for each other: beside the suite they cost no time.
if ((train)); then
  cmake --build --preset cuda-train --parallel $((jobs / 4 + 1)) &
  train_build=$!
fi
cmake --build --preset cuda --parallel "$jobs"
if ((train)); then wait "$train_build"; fi
echo "built in $((SECONDS - start)) s"
# A test is mostly the start of its process and its context, so as many run at once as there are cores.
export MMREC_REQUIRE_GPU=1
ctest --preset cuda --output-on-failure --parallel "$jobs" --timeout 300
if ((train)); then
  ctest --preset cuda-train --output-on-failure --parallel 4 --timeout 300
else
  echo "The training loop's tests on the GPU were not built: CMake said above what is missing."
fi
echo "built and run in $((SECONDS - start)) s"
