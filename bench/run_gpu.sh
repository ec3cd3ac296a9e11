#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds the GPU benchmarks, runs them, PyTorch in the same run where it is installed, and
# prints the tables. The measurements go to the folder that is given (default build-cuda/results).
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-build-cuda/results}
mkdir -p "$out"
generator=()
if ! command -v ninja >/dev/null; then generator=(-G "Unix Makefiles"); fi
cmake --preset cuda "${generator[@]}" -DCMAKE_PREFIX_PATH="$PWD/.carry" \
  -DMMREC_BUILD_BENCHMARKS=ON -DMMREC_BUILD_TESTS=OFF
benches=(scan linear modules recurrence)
targets=(cub_scan_gpu)
for bench in "${benches[@]}"; do targets+=("${bench}_gpu_float" "${bench}_gpu_bfloat16"); done
cmake --build --preset cuda --parallel "$(nproc)" --target "${targets[@]}"
nvidia-smi --query-gpu=name,driver_version,clocks.max.mem,clocks.max.sm --format=csv,noheader
revision=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
for bench in "${benches[@]}"; do
  echo "{\"revision\": \"$revision\"}" | tee "$out/${bench}_gpu.jsonl"
  "build-cuda/bench/${bench}_gpu_float" | tee -a "$out/${bench}_gpu.jsonl"
  "build-cuda/bench/${bench}_gpu_bfloat16" | tee -a "$out/${bench}_gpu.jsonl"
  if [ "$bench" = scan ]; then build-cuda/bench/cub_scan_gpu | tee -a "$out/scan_gpu.jsonl"; fi
  if [ -e "bench/torch_${bench}_gpu.py" ]; then
    if python3 -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then
      python3 "bench/torch_${bench}_gpu.py" | tee -a "$out/${bench}_gpu.jsonl"
    else
      echo "PyTorch with CUDA is not installed: no peers in the table."
    fi
  fi
  python3 bench/gpu_tables.py "$out/${bench}_gpu.jsonl" | tee "$out/${bench}_gpu.md"
done
