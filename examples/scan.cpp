// SPDX-License-Identifier: Apache-2.0
// The first lines with mmrec: a running product and its gradient. No build system is needed:
//
//   g++ -std=c++20 -O3 -march=native -I include examples/scan.cpp -o scan -pthread && ./scan
//
// Output:
//
//   y   1 0.5 0.5 1
//   dx  3 4 1.5 0.5
//
// smoke:
#include <mmrec/scan.hpp>

#include <cstdio>
#include <vector>

int main() {
  using namespace mmrec;
  std::vector<float> x{1, 0.5f, 1, 2}, y(4), dy{1, 1, 1, 1}, dx(4);  // your memory, used in place
  const auto array = [](std::vector<float>& v) {
    return view<float, 3>{v.data(), {1, 4, 1}};  // (batch, time, channel)
  };

  cumprod(backend::simd{}, array(x), array(y));  // y[t] = x[0] x[1] ... x[t]
  cumprod_backward(backend::simd{}, array(dy), array(x), array(y), array(dx));

  std::printf("y   %g %g %g %g\n", y[0], y[1], y[2], y[3]);
  std::printf("dx  %g %g %g %g\n", dx[0], dx[1], dx[2], dx[3]);
}
