// SPDX-License-Identifier: Apache-2.0
// Compiled for instructions that no Intel CPU and no recent AMD CPU has: the check of cpu.hpp must
// end it before the static initialiser and main.
#include "../../examples/support/cpu.hpp"

#include <cstdio>

namespace {
struct early {
  early() { std::puts("a static initialiser ran"); }
} const before_main;
}  // namespace

int main() { std::puts("main ran"); }
