// SPDX-License-Identifier: Apache-2.0
// Element types: float, double, and 16-bit types that are storage only.
//
// A 16-bit element (Eigen::half, Eigen::bfloat16, __half, __nv_bfloat16, or any type for which
// `storage_format` is specialised) is converted to float when it is read and rounded to nearest
// even when it is written; arithmetic, carries and states are float. `accumulator_t<T>` says so,
// here and nowhere else. No 16-bit type's header is included: the bits are all that is needed.
#pragma once

#include <bit>
#include <concepts>
#include <cstdint>
#include <type_traits>

namespace Eigen {
struct half;
struct bfloat16;
}  // namespace Eigen
struct __half;
struct __nv_bfloat16;

#if defined(__CUDACC__)
#define MMREC_HD __host__ __device__
#else
#define MMREC_HD
#endif
// For what a kernel's inner loop is made of: a call there would spill every vector register.
#define MMREC_HD_INLINE MMREC_HD inline __attribute__((always_inline))

namespace mmrec {

enum class format { none, native, binary16, bfloat16 };

/// How the bits of an element are read. Specialise it for a 16-bit type of your own.
template <class T>
inline constexpr format storage_format =
    std::same_as<T, float> || std::same_as<T, double> ? format::native : format::none;
template <>
inline constexpr format storage_format<Eigen::half> = format::binary16;
template <>
inline constexpr format storage_format<__half> = format::binary16;
template <>
inline constexpr format storage_format<Eigen::bfloat16> = format::bfloat16;
template <>
inline constexpr format storage_format<__nv_bfloat16> = format::bfloat16;

/// float, double or a 16-bit storage type.
template <class T>
concept element = storage_format<T> != format::none;

/// 16 bits of storage, float arithmetic.
template <class T>
concept storage16 = element<T> && storage_format<T> != format::native;

namespace detail {
template <class T>
struct accumulator {
  using type = float;
};
template <>
struct accumulator<double> {
  using type = double;
};
}  // namespace detail

/// The type in which arithmetic on T is done and in which carries and states are kept.
template <element T>
using accumulator_t = typename detail::accumulator<T>::type;

/// binary16 bits to float, exactly; denormals, infinities and NaN included.
MMREC_HD constexpr float half_bits_to_float(std::uint16_t h) {
  const std::uint32_t sign = std::uint32_t(h & 0x8000u) << 16;
  const std::uint32_t rest = h & 0x7fffu;
  if (rest >= 0x7c00u) return std::bit_cast<float>(sign | 0x7f800000u | ((rest & 0x3ffu) << 13));
  // Shift into float's fields and rescale by 2^112: exact for normal and denormal numbers alike.
  const float scaled = std::bit_cast<float>(rest << 13) * 0x1p112f;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(scaled) | sign);
}

/// float to binary16 bits, rounded to nearest even; overflow gives infinity, NaN stays NaN.
MMREC_HD constexpr std::uint16_t float_to_half_bits(float f) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(f);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  std::uint32_t result = 0;
  if (magnitude > 0x7f800000u) {
    result = 0x7e00u;
  } else if (magnitude >= 0x477ff000u) {  // 65520, the first value that rounds to infinity
    result = 0x7c00u;
  } else if (magnitude < 0x38800000u) {  // below 2^-14: adding 0.5 aligns the denormal's last bit
    const float aligned = std::bit_cast<float>(magnitude) + 0.5f;
    result = std::bit_cast<std::uint32_t>(aligned) - 0x3f000000u;
  } else {
    result = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  }
  return static_cast<std::uint16_t>(sign | result);
}

MMREC_HD constexpr float bfloat16_bits_to_float(std::uint16_t b) {
  return std::bit_cast<float>(std::uint32_t(b) << 16);
}

MMREC_HD constexpr std::uint16_t float_to_bfloat16_bits(float f) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(f);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>((bits >> 16) | 0x40u);
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

/// Reads one element as the arithmetic type Acc.
template <class Acc, element T>
MMREC_HD Acc load_element(const T* p) {
  if constexpr (storage_format<T> == format::native) {
    return static_cast<Acc>(*p);
  } else {
    static_assert(sizeof(T) == 2, "mmrec: a 16-bit storage type must have 2 bytes");
    const auto bits = std::bit_cast<std::uint16_t>(*p);
    return static_cast<Acc>(storage_format<T> == format::binary16 ? half_bits_to_float(bits)
                                                                  : bfloat16_bits_to_float(bits));
  }
}

/// Writes one element, rounding once.
template <class Acc, element T>
MMREC_HD void store_element(T* p, Acc value) {
  if constexpr (storage_format<T> == format::native) {
    *p = static_cast<T>(value);
  } else {
    const float f = static_cast<float>(value);
    *p = std::bit_cast<T>(storage_format<T> == format::binary16 ? float_to_half_bits(f)
                                                                : float_to_bfloat16_bits(f));
  }
}

}  // namespace mmrec
