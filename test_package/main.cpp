// SPDX-License-Identifier: Apache-2.0
#include <mmrec/scan.hpp>

#include <array>
#include <cstdio>

int main() {
  const std::array<float, 4> gamma{0.5f, 4.0f, -1.0f, 3.0f};
  std::array<float, 4> y{};
  mmrec::cumprod(mmrec::backend::simd{}, mmrec::view<const float, 3>{gamma.data(), {1, 4, 1}},
                 mmrec::view<float, 3>{y.data(), {1, 4, 1}});
  std::printf("%g %g %g %g\n", y[0], y[1], y[2], y[3]);  // 0.5 2 -2 -6
  return y == std::array<float, 4>{0.5f, 2.0f, -2.0f, -6.0f} ? 0 : 1;
}
