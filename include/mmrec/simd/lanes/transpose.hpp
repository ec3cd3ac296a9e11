// SPDX-License-Identifier: Apache-2.0
// Rows in memory to lanes and back.
#pragma once

#include <mmrec/simd/lanes/access.hpp>
#include <mmrec/view.hpp>

#include <array>

// As in batch.hpp, for the intrinsics used here.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

namespace mmrec::simd {

namespace detail {

/// One stage of a transposition: exchanges blocks of Half lanes between registers i and i + Half.
template <std::size_t Half, class R, std::size_t... I>
MMREC_INLINE void exchange(R& x, R& y, std::index_sequence<I...>) {
  constexpr std::size_t n = sizeof...(I);
  const R a = x, b = y;
  x = __builtin_shufflevector(a, b, ((I & Half) ? I - Half + n : I)...);
  y = __builtin_shufflevector(a, b, ((I & Half) ? I + n : I + Half)...);
}

template <std::size_t Half, class V, std::size_t N>
MMREC_INLINE void transpose_stage(std::array<raw_t<V>, N>& rows) {
  for (std::size_t i = 0; i < N; ++i)
    if (!(i & Half)) exchange<Half>(rows[i], rows[i + Half], std::make_index_sequence<N>{});
  if constexpr (Half > 1) transpose_stage<Half / 2, V>(rows);
}

}  // namespace detail

/// Transposes W registers of W lanes in place: log2(W) stages of W two-register shuffles.
template <class V>
MMREC_INLINE void transpose(std::array<V, V::size>& rows) {
  std::array<raw_t<V>, V::size> r;
  for (std::size_t i = 0; i < V::size; ++i) r[i] = raw(rows[i]);
  detail::transpose_stage<V::size / 2, V>(r);
  for (std::size_t i = 0; i < V::size; ++i) rows[i] = from_raw<V>(r[i]);
}

// Rows in memory to lanes and back. Shuffles across 128-bit lanes have one port; loads and stores
// of 16 bytes cross lanes for nothing. So a register is put together from a quad (16 bytes) of each
// of W / Q rows, Q elements to the quad, and only the Q x Q blocks within the lanes are left to
// transpose.
namespace detail {

template <class T>
inline constexpr std::size_t quad = 16 / sizeof(T);
template <class Rows>
using row_element = std::remove_cvref_t<decltype(*std::declval<const Rows&>()[0])>;

/// Within every 128-bit lane: the first halves of x and y interleaved, and the second halves.
template <class R, std::size_t Q, std::size_t... I>
MMREC_INLINE void unpack(R& x, R& y, std::index_sequence<I...>) {
  constexpr std::size_t n = sizeof...(I);
  const R a = x, b = y;
  x = __builtin_shufflevector(a, b, (I / Q * Q + I % Q / 2 + (I % 2) * n)...);
  y = __builtin_shufflevector(a, b, (I / Q * Q + Q / 2 + I % Q / 2 + (I % 2) * n)...);
}

/// Transposes the blocks of Q x Q elements of Q registers, lane by lane. In integer registers,
/// which some processors shuffle on more ports.
template <class V>
MMREC_INLINE void transpose_quads(raw_t<V>* r) {
  using words = vector_t<std::int32_t, sizeof(V) / 4>;
  using pairs = vector_t<std::int64_t, sizeof(V) / 8>;
  constexpr auto half = std::make_index_sequence<sizeof(V) / 8>{};
  if constexpr (sizeof(typename V::value_type) == 8) {
    pairs x = std::bit_cast<pairs>(r[0]), y = std::bit_cast<pairs>(r[1]);
    unpack<pairs, 2>(x, y, half);
    r[0] = std::bit_cast<raw_t<V>>(x), r[1] = std::bit_cast<raw_t<V>>(y);
  } else {
    constexpr auto all = std::make_index_sequence<sizeof(V) / 4>{};
    words v[4];
    pairs p[4];
    for (std::size_t i = 0; i < 4; ++i) v[i] = std::bit_cast<words>(r[i]);
    unpack<words, 4>(v[0], v[1], all);
    unpack<words, 4>(v[2], v[3], all);
    for (std::size_t i = 0; i < 4; ++i) p[i] = std::bit_cast<pairs>(v[i]);
    unpack<pairs, 2>(p[0], p[2], half);
    unpack<pairs, 2>(p[1], p[3], half);
    r[0] = std::bit_cast<raw_t<V>>(p[0]), r[1] = std::bit_cast<raw_t<V>>(p[2]);
    r[2] = std::bit_cast<raw_t<V>>(p[1]), r[3] = std::bit_cast<raw_t<V>>(p[3]);
  }
}

/// One register of the quads at `offset` of rows[first], rows[first + Stride], ...
template <class V, std::size_t Stride, class Rows>
MMREC_INLINE raw_t<V> load_quads(const Rows& rows, std::size_t first, index_t offset) {
  using part = vector_t<typename V::value_type, quad<typename V::value_type>>;
  part parts[sizeof(V) / 16];
  for (std::size_t i = 0; i < sizeof(V) / 16; ++i)
    std::memcpy(&parts[i], rows[first + i * Stride] + offset, 16);
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64) {
    __m512 v = _mm512_zextps128_ps512(std::bit_cast<__m128>(parts[0]));
    v = _mm512_mask_broadcast_f32x4(v, 0x00f0, std::bit_cast<__m128>(parts[1]));
    v = _mm512_mask_broadcast_f32x4(v, 0x0f00, std::bit_cast<__m128>(parts[2]));
    v = _mm512_mask_broadcast_f32x4(v, 0xf000, std::bit_cast<__m128>(parts[3]));
    return std::bit_cast<raw_t<V>>(v);
  }
#endif
#if defined(__AVX__)
  if constexpr (sizeof(V) == 32)
    return std::bit_cast<raw_t<V>>(
        _mm256_set_m128(std::bit_cast<__m128>(parts[1]), std::bit_cast<__m128>(parts[0])));
#endif
  if constexpr (sizeof(V) == 16) return parts[0];
}

/// A register of one quad; its other lanes are 0. Of 16 or 32 bytes.
template <class V, class T>
MMREC_INLINE V load_quad(const T* p) {
  static_assert(sizeof(V) <= 32);
  vector_t<T, quad<T>> part;
  std::memcpy(&part, p, 16);
#if defined(__AVX__)
  if constexpr (sizeof(V) == 32)
    return from_raw<V>(
        std::bit_cast<raw_t<V>>(_mm256_zextps128_ps256(std::bit_cast<__m128>(part))));
#endif
  if constexpr (sizeof(V) == 16) return from_raw<V>(part);
}

/// Stores the quads of two such registers next to each other.
template <class V, class T>
MMREC_INLINE void store_two_quads(T* p, const V& x, const V& y) {
  static_assert(sizeof(V) <= 32);
#if defined(__AVX__)
  if constexpr (sizeof(V) == 32) {
    const auto a = std::bit_cast<__m256>(raw(x)), b = std::bit_cast<__m256>(raw(y));
    const __m256 both = _mm256_insertf128_ps(a, _mm256_castps256_ps128(b), 1);
    std::memcpy(static_cast<void*>(p), &both, 32);
    return;
  }
#endif
  std::memcpy(static_cast<void*>(p), &x, 16);
  std::memcpy(static_cast<void*>(p + quad<T>), &y, 16);
}

/// Stores one 128-bit lane.
template <class V, std::size_t Lane, class T>
MMREC_INLINE void store_quad(T* p, const raw_t<V>& v) {
  // Spelled out, or GCC shuffles the lane to the front of a register first.
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64) {
    const __m128 part = _mm512_maskz_extractf32x4_ps(0xf, std::bit_cast<__m512>(v), Lane);
    std::memcpy(static_cast<void*>(p), &part, 16);
    return;
  }
#endif
#if defined(__AVX__)
  if constexpr (sizeof(V) == 32) {
    const __m256 all = std::bit_cast<__m256>(v);
    const __m128 part = Lane == 0 ? _mm256_castps256_ps128(all) : _mm256_extractf128_ps(all, Lane);
    std::memcpy(static_cast<void*>(p), &part, 16);
    return;
  }
#endif
  std::memcpy(static_cast<void*>(p), &v, 16);
}

template <class V, class T>
inline constexpr bool has_quads = std::same_as<T, typename V::value_type> &&
                                  (sizeof(V) == 16 || sizeof(V) == 32 || sizeof(V) == 64);

/// Two registers' lanes as the 32 bytes of a row: the first lanes of both, and the second lanes.
template <class R>
MMREC_INLINE void join_lanes(R& x, R& y) {
  using words = vector_t<std::int64_t, 4>;
  const words a = std::bit_cast<words>(x), b = std::bit_cast<words>(y);
#if defined(__AVX2__)
  // Spelled out, or GCC takes a shuffle, which takes longer.
  x = std::bit_cast<R>(_mm256_inserti128_si256(
      std::bit_cast<__m256i>(a), _mm256_castsi256_si128(std::bit_cast<__m256i>(b)), 1));
#else
  x = std::bit_cast<R>(__builtin_shufflevector(a, b, 0, 1, 4, 5));
#endif
  y = std::bit_cast<R>(__builtin_shufflevector(a, b, 2, 3, 6, 7));
}

/// Does exchanging the lanes of registers cost as little as loading or storing one of them?
#if defined(__AVX512VL__)
constexpr bool joins_lanes = true;  // not inline: of this file's instructions
#else
constexpr bool joins_lanes = false;
#endif

/// r[i] lane j = the i-th word of rows[j] + offset, for W rows and N words of the size of a lane.
/// A row is read as a whole before the next one: rows may push one another out of the first level.
/// Joined: by 32 bytes and not by 16, more of which cross no line where rows are not aligned.
template <class V, bool Joined = joins_lanes, class Rows, std::size_t N>
MMREC_INLINE void load_words(raw_t<V> (&r)[N], const Rows& rows, index_t offset) {
  constexpr std::size_t q = quad<typename V::value_type>, both = 2 * q;
  constexpr auto width = static_cast<index_t>(quad<row_element<Rows>>);
  if constexpr (Joined && sizeof(V) == 32 && N % both == 0) {
    for (std::size_t j = 0; j < both; ++j)
      for (std::size_t i = 0; i < N; i += both)
        std::memcpy(&r[i + j], rows[j] + offset + static_cast<index_t>(i / q) * width, 32);
    for (std::size_t j = 0; j < q; ++j)
      for (std::size_t i = 0; i < N; i += both) join_lanes(r[i + j], r[i + j + q]);
  } else {
    for (std::size_t j = 0; j < q; ++j)
      for (std::size_t i = 0; i < N; i += q)
        r[i + j] = load_quads<V, q>(rows, j, offset + static_cast<index_t>(i / q) * width);
  }
  for (std::size_t i = 0; i < N; i += q) transpose_quads<V>(r + i);
}

/// The way back; `r` is used up. The quads of a row are stored next to each other: the processor
/// joins stores to one cache line. Or pairs of quads are, past the caches if `stream`.
template <class V, class Rows, std::size_t N>
MMREC_INLINE void store_words(raw_t<V> (&r)[N], const Rows& rows, index_t offset, bool stream) {
  constexpr std::size_t q = quad<typename V::value_type>, both = 2 * q;
  constexpr auto width = static_cast<index_t>(quad<row_element<Rows>>);
  for (std::size_t i = 0; i < N; i += q) transpose_quads<V>(r + i);
  if constexpr (sizeof(V) == 32 && N % both == 0) {
    if (joins_lanes || stream) {
      for (std::size_t j = 0; j < q; ++j) {
        for (std::size_t i = 0; i < N; i += both) join_lanes(r[i + j], r[i + j + q]);
        for (std::size_t lane = 0; lane < 2; ++lane)
          for (std::size_t i = 0; i < N; i += both) {
            auto* const to = rows[lane * q + j] + offset + static_cast<index_t>(i / q) * width;
            const raw_t<V>& v = r[i + j + lane * q];
            stream ? stream_lanes(to, from_raw<V>(v))
                   : static_cast<void>(std::memcpy(static_cast<void*>(to), &v, 32));
          }
      }
      return;
    }
  }
  const auto store = [&]<std::size_t Lane>(std::size_t j) MMREC_LAMBDA_INLINE {
    for (std::size_t i = 0; i < N; i += q) {
      auto* const to = rows[Lane * q + j] + offset + static_cast<index_t>(i / q) * width;
      sizeof(V) == 16 && stream ? stream_lanes(to, from_raw<V>(r[i + j]))
                                : store_quad<V, Lane>(to, r[i + j]);
    }
  };
  for (std::size_t j = 0; j < q; ++j) {
    store.template operator()<0>(j);
    if constexpr (sizeof(V) == 32) store.template operator()<1>(j);
  }
}

}  // namespace detail

/// x[i] lane j = rows[j][offset + i], for W rows and a multiple of W steps, or of a quad's where
/// elements are not converted. rows[j] is a pointer. Joined: see load_words.
template <bool Joined = true, class V, class Rows, std::size_t N>
MMREC_INLINE void load_transposed(std::array<V, N>& x, const Rows& rows, index_t offset) {
  using T = detail::row_element<Rows>;
  constexpr std::size_t w = V::size;
  if constexpr (detail::has_quads<V, T>) {
    static_assert(N % detail::quad<T> == 0);
    raw_t<V> r[N];
    detail::load_words<V, Joined && detail::joins_lanes>(r, rows, offset);
    for (std::size_t i = 0; i < N; ++i) x[i] = from_raw<V>(r[i]);
  } else if constexpr (has_pairs<V, T> && N % 8 == 0) {
    raw_t<V> r[N / 2];
    detail::load_words<V, Joined && detail::joins_lanes>(r, rows, offset);
    for (std::size_t i = 0; i < N; i += 2) split_pairs(x[i], x[i + 1], r[i / 2]);
  } else {
    static_assert(N % w == 0);
    for (std::size_t from = 0; from < N; from += w) {
      std::array<V, w> block;
      for (std::size_t j = 0; j < w; ++j)
        block[j] = load_lanes<V>(rows[j] + offset + static_cast<index_t>(from));
      transpose(block);
      for (std::size_t i = 0; i < w; ++i) x[from + i] = block[i];
    }
  }
}

/// The way back; past the caches if `stream`, where the rows are aligned to registers. Storing a
/// lane of a 512-bit register costs more than the shuffles do.
template <class V, class Rows, std::size_t N>
MMREC_INLINE void store_transposed(const std::array<V, N>& x, const Rows& rows, index_t offset,
                                   bool stream = false) {
  using T = detail::row_element<Rows>;
  constexpr std::size_t w = V::size;
  static_assert(N % w == 0);
  if constexpr (detail::has_quads<V, T> && sizeof(V) < 64) {
    raw_t<V> r[N];
    for (std::size_t i = 0; i < N; ++i) r[i] = raw(x[i]);
    detail::store_words<V>(r, rows, offset, stream);
  } else if constexpr (has_pairs<V, T> && N % 8 == 0 && sizeof(V) < 64) {
    raw_t<V> r[N / 2];
    for (std::size_t i = 0; i < N; i += 2) r[i / 2] = join_pairs(x[i], x[i + 1]);
    detail::store_words<V>(r, rows, offset, false);
  } else {
    for (std::size_t from = 0; from < N; from += w) {
      std::array<V, w> block;
      for (std::size_t i = 0; i < w; ++i) block[i] = x[from + i];
      transpose(block);
      for (std::size_t j = 0; j < w; ++j) {
        T* const to = rows[j] + offset + static_cast<index_t>(from);
        if constexpr (std::same_as<T, typename V::value_type>)
          if (stream) {
            stream_lanes(to, block[j]);
            continue;
          }
        store_lanes(to, block[j]);
      }
    }
  }
}

}  // namespace mmrec::simd

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
