#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds the GPU benchmarks, runs them, PyTorch's scans in the same run where it is installed, and
# prints the tables. The measurements go to the folder that is given (default build-cuda/results).
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-build-cuda/results}
mkdir -p "$out"
generator=()
if ! command -v ninja >/dev/null; then generator=(-G "Unix Makefiles"); fi
cmake --preset cuda "${generator[@]}" -DCMAKE_PREFIX_PATH="$PWD/.carry" \
  -DMMREC_BUILD_BENCHMARKS=ON -DMMREC_BUILD_TESTS=OFF
cmake --build --preset cuda --parallel "$(nproc)" --target scan_gpu_float scan_gpu_bfloat16 \
  modules_gpu_float modules_gpu_bfloat16
nvidia-smi --query-gpu=name,driver_version,clocks.max.mem,clocks.max.sm --format=csv,noheader
build-cuda/bench/scan_gpu_float | tee "$out/scan_gpu.jsonl"
build-cuda/bench/scan_gpu_bfloat16 | tee -a "$out/scan_gpu.jsonl"
if python3 -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then
  python3 bench/torch_scan_gpu.py | tee -a "$out/scan_gpu.jsonl"
else
  echo "PyTorch with CUDA is not installed: no peers in the table."
fi
python3 bench/scan_gpu_table.py "$out/scan_gpu.jsonl" | tee "$out/scan_gpu.md"
for element in float bfloat16; do "build-cuda/bench/modules_gpu_$element"; done |
  tee "$out/modules_gpu.jsonl"
