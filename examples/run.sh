#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The main job: sets up what is missing, builds, and trains an MM-Rec language model. Arguments go
# to the program: examples/run.sh --help
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
(
  cd "$root"
  cmake/dependencies.sh
  cmake --preset release
  cmake --build --preset release --parallel "$(nproc)" --target \
    example_pretrain example_generate example_info
) >&2  # standard output belongs to the program
exec "$root/build/examples/pretrain" "$@"
