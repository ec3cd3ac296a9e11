#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The compile line of a user without CMake. Usage: pkg_config.sh <pkg-config> <compiler> <program>
set -euo pipefail
cd "$(dirname "$0")/consumer"
pkg_config=$1 compiler=$2 program=$3
read -ra cflags <<< "$("$pkg_config" --cflags mmrec)"
read -ra libs <<< "$("$pkg_config" --libs mmrec)"
wide=()
if [[ $(uname -m) == x86_64 ]]; then wide=(-mavx2 -mfma); fi

"$compiler" -std=c++20 "${cflags[@]}" -c main.cpp -o "$program.main.o"
"$compiler" -std=c++20 "${cflags[@]}" "${wide[@]}" -c wide.cpp -o "$program.wide.o"
"$compiler" "$program.main.o" "$program.wide.o" -o "$program" "${libs[@]}"
"$program"
