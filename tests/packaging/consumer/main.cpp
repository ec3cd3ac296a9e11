// SPDX-License-Identifier: Apache-2.0
// A user's program: the same product on two backends, and once more in wide.cpp, a translation unit
// that is compiled for wider registers than this one.
#include <mmrec/mmrec.hpp>

#include <cstdio>
#include <string>
#include <vector>

namespace {
const std::string narrow_arch = mmrec::default_simd_arch::name();
}

std::string wide_cumprod(const std::vector<float>& gamma, std::vector<float>& y,
                         const mmrec::view<float, 3>::extents_type& shape);

int main() {
  constexpr mmrec::index_t batch = 2, time = 37, channels = 19;
  std::vector<float> gamma, expected;
  for (mmrec::index_t b = 0; b < batch; ++b) {
    for (mmrec::index_t t = 0; t < time; ++t) {
      for (mmrec::index_t c = 0; c < channels; ++c) {
        // Powers of two: every order of multiplication gives the same bits.
        gamma.push_back((t + c) % 3 == 0 ? 0.5f : (t + b) % 2 == 0 ? -2.0f : 1.0f);
        expected.push_back(t == 0 ? gamma.back()
                                  : expected[expected.size() - channels] * gamma.back());
      }
    }
  }
  const mmrec::view<float, 3>::extents_type shape{batch, time, channels};
  const mmrec::view<const float, 3> x{gamma.data(), shape};

  std::vector<float> y(gamma.size());
  mmrec::cumprod(mmrec::backend::reference{}, x, mmrec::view<float, 3>{y.data(), shape});
  if (y != expected) return std::puts("reference: wrong product"), 1;

  y.assign(y.size(), 0.0f);
  mmrec::cumprod(mmrec::backend::simd{}, x, mmrec::view<float, 3>{y.data(), shape});
  if (y != expected) return std::puts("simd: wrong product"), 1;

#if defined(__x86_64__)
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
    return std::puts("this CPU lacks AVX2 or FMA: wide.cpp is linked but not called"), 0;
  }
#endif
  y.assign(y.size(), 0.0f);
  const std::string wide_arch = wide_cumprod(gamma, y, shape);
  if (y != expected) return std::puts("wide simd: wrong product"), 1;
#if defined(__x86_64__) && !defined(__AVX2__)
  if (wide_arch == narrow_arch) return std::puts("both files got the same code"), 1;
#endif
  std::printf("mmrec %s: %s and %s\n", mmrec::version_string.data(), narrow_arch.c_str(),
              wide_arch.c_str());
}
