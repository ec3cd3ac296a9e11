#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs those Debian packages that are missing: all that mmrec's own tests, examples and
# benchmarks need, and what is named as argument. Does nothing, and asks for nothing, when all are
# there.
set -euo pipefail

packages=(g++ cmake ninja-build pkgconf python3 libxsimd-dev libeigen3-dev catch2
          libbenchmark-dev libcli11-dev nlohmann-json3-dev libfmt-dev "$@")
if ! command -v apt-get >/dev/null; then
  echo "This system has no apt-get. What mmrec needs is known in Debian as: ${packages[*]}" >&2
  exit 0  # CMake names what is missing, if anything is
fi

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)
  if [[ $status != installed ]]; then missing+=("$package"); fi
done
if ((${#missing[@]} == 0)); then exit 0; fi

as_root=()
if ((EUID != 0)); then
  if ! command -v sudo >/dev/null; then
    echo "Missing packages; as root: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi
echo "Installing ${missing[*]}"
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
