// SPDX-License-Identifier: Apache-2.0
// Loads and stores: a batch of W lanes of the arithmetic type Acc is read from W consecutive
// elements of storage type T. load_lanes_n and store_lanes_n touch the first n of them only; the
// other lanes read as 0.
#pragma once

#include <mmrec/simd/lanes/storage16.hpp>

#include <cstring>

// As in batch.hpp, for the intrinsics used here.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

namespace mmrec::simd {

template <class V, class T>
MMREC_INLINE V load_lanes(const T* p) {
  using Acc = typename V::value_type;
  constexpr std::size_t n = lanes<V>;
  if constexpr (std::same_as<T, Acc>) {
    return V::load_unaligned(p);
  } else if constexpr (storage_format<T> == format::native) {
    vector_t<T, n> narrow;
    std::memcpy(&narrow, p, sizeof narrow);
    return from_raw<V>(__builtin_convertvector(narrow, raw_t<V>));
  } else {
    vector_t<std::uint16_t, n> bits;
    std::memcpy(&bits, p, sizeof bits);
    return from_raw<V>(__builtin_convertvector((widen16<V, storage_format<T>>(bits)), raw_t<V>));
  }
}

template <class V, class T>
MMREC_INLINE void store_lanes(T* p, const V& v) {
  using Acc = typename V::value_type;
  constexpr std::size_t n = lanes<V>;
  if constexpr (std::same_as<T, Acc>) {
    v.store_unaligned(p);
  } else if constexpr (storage_format<T> == format::native) {
    const auto narrow = __builtin_convertvector(raw(v), vector_t<T, n>);
    std::memcpy(static_cast<void*>(p), &narrow, sizeof narrow);
  } else {
    const auto bits =
        narrow16<V, storage_format<T>>(__builtin_convertvector(raw(v), vector_t<float, n>));
    std::memcpy(static_cast<void*>(p), &bits, sizeof bits);
  }
}

/// Are 2 W elements read and written as the W even and the W odd ones of them? A bfloat16 is the
/// upper half of a float, so the pairs in a register of memory are taken apart and put together
/// without a shuffle.
template <class V, class T>
inline constexpr bool has_pairs =
    storage_format<T> == format::bfloat16 && std::same_as<typename V::value_type, float> &&
    std::endian::native == std::endian::little;

template <class V, class T>
MMREC_INLINE void load_pairs(V& even, V& odd, const T* p) {
  raw_t<V> pairs;
  std::memcpy(&pairs, p, sizeof pairs);
  split_pairs(even, odd, pairs);
}
template <class V, class T>
MMREC_INLINE void store_pairs(T* p, const V& even, const V& odd) {
  const raw_t<V> pairs = join_pairs(even, odd);
  std::memcpy(static_cast<void*>(p), &pairs, sizeof pairs);
}

/// Two registers of neighbouring lanes as their even and odd lanes, and back.
template <class V>
MMREC_INLINE void unzip(V& a, V& b) {
  constexpr std::size_t n = lanes<V>;
  [&]<std::size_t... I>(std::index_sequence<I...>) MMREC_LAMBDA_INLINE {
    const raw_t<V> x = raw(a), y = raw(b);
    a = from_raw<V>(__builtin_shufflevector(x, y, (2 * I)...));
    b = from_raw<V>(__builtin_shufflevector(x, y, (2 * I + 1)...));
  }(std::make_index_sequence<n>{});
}
template <class V>
MMREC_INLINE void zip(V& a, V& b) {
  constexpr std::size_t n = lanes<V>;
  [&]<std::size_t... I>(std::index_sequence<I...>) MMREC_LAMBDA_INLINE {
    const raw_t<V> x = raw(a), y = raw(b);
    a = from_raw<V>(__builtin_shufflevector(x, y, (I / 2 + I % 2 * n)...));
    b = from_raw<V>(__builtin_shufflevector(x, y, (n / 2 + I / 2 + I % 2 * n)...));
  }(std::make_index_sequence<n>{});
}

/// Stores past the caches: `p` is aligned to the register, and a fence follows the last one
/// (end_streaming).
template <class V, class T>
MMREC_INLINE void stream_lanes(T* p, const V& v) {
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64)
    return _mm512_stream_si512(reinterpret_cast<__m512i*>(p), std::bit_cast<__m512i>(raw(v)));
#endif
#if defined(__AVX__)
  if constexpr (sizeof(V) == 32)
    return _mm256_stream_si256(reinterpret_cast<__m256i*>(p), std::bit_cast<__m256i>(raw(v)));
#endif
#if defined(__SSE2__)
  if constexpr (sizeof(V) == 16)
    return _mm_stream_si128(reinterpret_cast<__m128i*>(p), std::bit_cast<__m128i>(raw(v)));
#endif
  store_lanes(p, v);
}
MMREC_INLINE void end_streaming() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

template <class V, class T>
MMREC_INLINE V load_lanes_n(const T* p, std::size_t n) {
#if defined(__AVX512F__)
  if constexpr (std::same_as<T, float> && std::same_as<typename V::value_type, float> &&
                lanes<V> == 16)
    return V(_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1u), p));
  if constexpr (std::same_as<T, double> && lanes<V> == 8 && sizeof(V) == 64)
    return V(_mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << n) - 1u), p));
#endif
  T buffer[lanes<V>];
  std::memset(static_cast<void*>(buffer), 0, sizeof buffer);
  std::memcpy(static_cast<void*>(buffer), p, n * sizeof(T));
  return load_lanes<V>(buffer);
}

template <class V, class T>
MMREC_INLINE void store_lanes_n(T* p, const V& v, std::size_t n) {
#if defined(__AVX512F__)
  if constexpr (std::same_as<T, float> && std::same_as<typename V::value_type, float> &&
                lanes<V> == 16) {
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1u), v);
    return;
  }
  if constexpr (std::same_as<T, double> && lanes<V> == 8 && sizeof(V) == 64) {
    _mm512_mask_storeu_pd(p, static_cast<__mmask8>((1u << n) - 1u), v);
    return;
  }
#endif
  T buffer[lanes<V>];
  store_lanes(buffer, v);
  std::memcpy(static_cast<void*>(p), buffer, n * sizeof(T));
}

}  // namespace mmrec::simd

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
