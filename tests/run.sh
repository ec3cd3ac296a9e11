#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Sets up what is missing, builds, and runs the whole test suite, from a clean clone or any state
# after it. Arguments go to CMake's configuration: tests/run.sh -DMMREC_WERROR=ON
# The benchmarks are only seen to run here, so they are not optimised; bench/run.sh does that.
set -euo pipefail
cd "$(dirname "$0")/.."
cmake/dependencies.sh
cmake --preset release -DMMREC_BENCHMARKS_SMOKE=ON "$@"
cmake --build --preset release --parallel "$(nproc)"
ctest --preset release --parallel "$(nproc)"
