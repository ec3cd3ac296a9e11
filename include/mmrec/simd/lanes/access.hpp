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

/// 16-bit elements as lanes, and back.
template <class V, class T>
MMREC_INLINE V widened(const vector_t<std::uint16_t, lanes<V>>& bits) {
  return from_raw<V>(__builtin_convertvector((widen16<V, storage_format<T>>(bits)), raw_t<V>));
}
template <class V, class T>
MMREC_INLINE vector_t<std::uint16_t, lanes<V>> narrowed(const V& v) {
  return narrow16<V, storage_format<T>>(__builtin_convertvector(raw(v), vector_t<float, lanes<V>>));
}

/// W of them from p on, or the first n, after which come zeros.
template <class V, class T>
MMREC_INLINE vector_t<std::uint16_t, lanes<V>> load_bits(const T* p) {
  vector_t<std::uint16_t, lanes<V>> bits;
  std::memcpy(&bits, p, sizeof bits);
  return bits;
}
template <class V, class T>
MMREC_INLINE vector_t<std::uint16_t, lanes<V>> load_bits_n(const T* p, std::size_t n) {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  if constexpr (lanes<V> == 16)
    return std::bit_cast<vector_t<std::uint16_t, 16>>(
        _mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << n) - 1u), p));
#endif
  vector_t<std::uint16_t, lanes<V>> bits{};
  std::memcpy(&bits, p, n * sizeof(T));
  return bits;
}

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
    return widened<V, T>(load_bits<V>(p));
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
    const auto bits = narrowed<V, T>(v);
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

/// The first n bytes of r to memory, n even, by halves: through a buffer they would wait for the
/// processor's own stores. n is the same many times over, so the branches cost little.
template <std::size_t Words>
MMREC_INLINE void store_bytes_n(unsigned char* p, const vector_t<std::uint64_t, Words>& r,
                                std::size_t n) {
  if constexpr (Words > 2) {
    constexpr std::size_t half = Words / 2, bytes = 8 * half;
    vector_t<std::uint64_t, half> low, high;
    [&]<std::size_t... I>(std::index_sequence<I...>) MMREC_LAMBDA_INLINE {
      low = __builtin_shufflevector(r, r, I...);
      high = __builtin_shufflevector(r, r, (I + half)...);
    }(std::make_index_sequence<half>{});
    if (n >= bytes) std::memcpy(p, &low, bytes);
    if (n > bytes)
      store_bytes_n<half>(p + bytes, high, n - bytes);
    else if (n < bytes)
      store_bytes_n<half>(p, low, n);
  } else {
    if (n >= 16) {
      std::memcpy(p, &r, 16);
      return;
    }
    std::uint64_t rest = r[0];
    const auto part = [&](auto size) MMREC_LAMBDA_INLINE {
      if (!(n & size)) return;
      std::memcpy(p, &rest, size);
      p += size();
      rest = size < 8 ? rest >> (8 * size % 64) : r[1];
    };
    part(std::integral_constant<std::size_t, 8>{});
    part(std::integral_constant<std::size_t, 4>{});
    part(std::integral_constant<std::size_t, 2>{});
  }
}

template <class V, class T>
MMREC_INLINE V load_lanes_n(const T* p, std::size_t n) {
#if defined(__AVX512F__)
  if constexpr (std::same_as<T, float> && std::same_as<typename V::value_type, float> &&
                lanes<V> == 16) {
    const auto live = static_cast<__mmask16>((1u << n) - 1u);
#if defined(__AVX512VL__)
    // Whole registers, a step of a few elements apart, would mostly lie across two lines.
    if (n <= 4)
      return V(_mm512_zextps128_ps512(_mm_maskz_loadu_ps(static_cast<__mmask8>(live), p)));
#endif
    return V(_mm512_maskz_loadu_ps(live, p));
  }
  if constexpr (std::same_as<T, double> && lanes<V> == 8 && sizeof(V) == 64) {
    const auto live = static_cast<__mmask8>((1u << n) - 1u);
#if defined(__AVX512VL__)
    if (n <= 2) return V(_mm512_zextpd128_pd512(_mm_maskz_loadu_pd(live, p)));
#endif
    return V(_mm512_maskz_loadu_pd(live, p));
  }
#endif
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  if constexpr (sizeof(T) == 2 && lanes<V> == 16) return widened<V, T>(load_bits_n<V>(p, n));
#endif
#if defined(__AVX2__)
  if constexpr (std::same_as<T, typename V::value_type> && sizeof(V) == 32) {
    using integer = std::conditional_t<sizeof(T) == 4, int, long long>;
    using integers = vector_t<integer, lanes<V>>;
    const integers index = [&]<std::size_t... I>(std::index_sequence<I...>) {
      return integers{static_cast<integer>(I)...};
    }(std::make_index_sequence<lanes<V>>{});
    const auto live = std::bit_cast<__m256i>(index < static_cast<integer>(n));
    if constexpr (sizeof(T) == 4)
      return V(_mm256_maskload_ps(p, live));
    else
      return V(_mm256_maskload_pd(p, live));
  }
#endif
  T buffer[lanes<V>];
  std::memset(static_cast<void*>(buffer), 0, sizeof buffer);
  std::memcpy(static_cast<void*>(buffer), p, n * sizeof(T));
  return load_lanes<V>(buffer);
}

/// N elements from p on, over and over, by one load: lane i is element i % N.
template <class V, std::size_t N>
MMREC_INLINE V load_repeated(const typename V::value_type* p) {
  using Acc = typename V::value_type;
  constexpr std::size_t bytes = N * sizeof(Acc);
  if constexpr (N == lanes<V>) {
    return load_lanes<V>(p);
  } else if constexpr (N == 1) {
    return V(*p);
  } else if constexpr (bytes == 8) {
    std::uint64_t word;
    std::memcpy(&word, p, bytes);
    return from_raw<V>(std::bit_cast<raw_t<V>>(word - vector_t<std::uint64_t, sizeof(V) / 8>{}));
  } else {
    // GCC would load, and then shuffle; what it makes of 64 bytes takes ten times as long.
#if defined(__AVX512F__)
    if constexpr (bytes == 16 && sizeof(V) == 64) {
      __m128 once;
      std::memcpy(&once, p, bytes);
      return from_raw<V>(std::bit_cast<raw_t<V>>(_mm512_maskz_broadcast_f32x4(0xffff, once)));
    }
    if constexpr (bytes == 32 && sizeof(V) == 64) {
      __m256d once;
      std::memcpy(&once, p, bytes);
      return from_raw<V>(std::bit_cast<raw_t<V>>(_mm512_maskz_broadcast_f64x4(0xff, once)));
    }
#endif
#if defined(__AVX__)
    if constexpr (bytes == 16 && sizeof(V) == 32)
      return from_raw<V>(std::bit_cast<raw_t<V>>(
          _mm256_broadcast_ps(reinterpret_cast<const __m128*>(static_cast<const void*>(p)))));
#endif
    vector_t<Acc, N> once;
    std::memcpy(&once, p, bytes);
    return [&]<std::size_t... I>(std::index_sequence<I...>) MMREC_LAMBDA_INLINE {
      return from_raw<V>(__builtin_shufflevector(once, once, (I % N)...));
    }(std::make_index_sequence<lanes<V>>{});
  }
}

template <class V, class T>
MMREC_INLINE void store_lanes_n(T* p, const V& v, std::size_t n) {
#if defined(__AVX512F__)
  if constexpr (std::same_as<T, float> && std::same_as<typename V::value_type, float> &&
                lanes<V> == 16) {
    const auto live = static_cast<__mmask16>((1u << n) - 1u);
#if defined(__AVX512VL__)
    if (n <= 4)
      return _mm_mask_storeu_ps(p, static_cast<__mmask8>(live), _mm512_castps512_ps128(v));
#endif
    return _mm512_mask_storeu_ps(p, live, v);
  }
  if constexpr (std::same_as<T, double> && lanes<V> == 8 && sizeof(V) == 64) {
    const auto live = static_cast<__mmask8>((1u << n) - 1u);
#if defined(__AVX512VL__)
    if (n <= 2) return _mm_mask_storeu_pd(p, live, _mm512_castpd512_pd128(v));
#endif
    return _mm512_mask_storeu_pd(p, live, v);
  }
#endif
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  if constexpr (sizeof(T) == 2 && lanes<V> == 16)
    return _mm256_mask_storeu_epi16(p, static_cast<__mmask16>((1u << n) - 1u),
                                    std::bit_cast<__m256i>(narrowed<V, T>(v)));
#endif
  T buffer[lanes<V>];
  store_lanes(buffer, v);
  if constexpr (sizeof buffer >= 16) {
    constexpr std::size_t words = sizeof buffer / 8;
    vector_t<std::uint64_t, words> bits;
    std::memcpy(&bits, buffer, sizeof bits);
    store_bytes_n<words>(reinterpret_cast<unsigned char*>(p), bits, n * sizeof(T));
  } else {
    std::memcpy(static_cast<void*>(p), buffer, n * sizeof(T));
  }
}

}  // namespace mmrec::simd

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
