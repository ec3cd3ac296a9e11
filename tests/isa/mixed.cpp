// SPDX-License-Identifier: Apache-2.0
// Compiled for two architectures: the objects may not share vector code or the pool's, of which a
// linker would keep one copy for both (no_shared_code.cmake looks).
#include <mmrec/linear.hpp>
#include <mmrec/scan.hpp>
#include <mmrec/transform.hpp>

#include <cstdint>

struct half {
  std::uint16_t bits;
};
struct bfloat {
  std::uint16_t bits;
};
template <>
inline constexpr mmrec::format mmrec::storage_format<half> = mmrec::format::binary16;
template <>
inline constexpr mmrec::format mmrec::storage_format<bfloat> = mmrec::format::bfloat16;

void mixed(const mmrec::view<half, 3>& x, const mmrec::view<bfloat, 3>& y,
           const mmrec::view<float, 2>& w, const mmrec::view<bfloat, 2>& z) {
  const mmrec::backend::simd cpu;
  mmrec::cumprod(cpu, x, x);
  mmrec::cumprod(cpu, y, y);
  mmrec::linear(cpu, z, z, z);
  mmrec::transform(cpu, [](auto v) { return mmrec::math::exp(v); }, w, w);
}
