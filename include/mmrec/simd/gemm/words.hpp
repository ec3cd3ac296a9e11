// SPDX-License-Identifier: Apache-2.0
// What the kernels of a product take from a factor at a time, a word of the size of the arithmetic
// type: an element, or a pair of bfloat16, steps k and k + 1 for k even, where an instruction adds
// both of its products. Two bfloat16 factors then need half of the multiply-adds, and nothing is
// widened. Words of pairs only move until they meet that instruction, so lanes of V hold them.
#pragma once

#include <mmrec/simd/gemm/operand.hpp>

namespace mmrec::simd {

/// Steps of k in a word of elements of E, which is the arithmetic type or one that has_dot_pairs.
template <class V, class E>
inline constexpr index_t steps_in_word =
    static_cast<index_t>(sizeof(typename V::value_type) / sizeof(E));

/// The number of steps, up to whole words.
template <class V, class E>
constexpr index_t padded_steps(index_t steps) {
  constexpr index_t n = steps_in_word<V, E>;
  return (steps + n - 1) / n * n;
}

template <class Operand>
using element_in = std::remove_cvref_t<decltype(*std::declval<const Operand&>().at(0, 0))>;

namespace detail {

template <class V, class A, class B>
constexpr auto factor() {
  if constexpr (requires(const A& a, const B& b) { a.at(0, 0), b.at(0, 0); })
    if constexpr (std::same_as<element_in<A>, element_in<B>> && has_dot_pairs<V, element_in<A>>)
      return std::type_identity<element_in<A>>{};
    else
      return std::type_identity<typename V::value_type>{};
  else
    return std::type_identity<typename V::value_type>{};
}

}  // namespace detail

/// The elements that kernels take of these operands: widened, or pairs as they are stored.
template <class V, class A, class B>
using factor_t = typename decltype(detail::factor<V, A, B>())::type;

/// W words from p on.
template <class V, class E>
MMREC_INLINE V load_words(const E* p) {
  raw_t<V> r;
  std::memcpy(&r, p, sizeof r);
  return from_raw<V>(r);
}
template <class V, class E>
MMREC_INLINE void store_words(E* p, const V& v) {
  const raw_t<V> r = raw(v);
  std::memcpy(static_cast<void*>(p), &r, sizeof r);
}
/// The word at p in all lanes.
template <class V, class E>
MMREC_INLINE V repeat_word(const E* p) {
  typename V::value_type word;
  std::memcpy(&word, p, sizeof word);
  return V(word);
}

/// c plus the products of a word of a and one of b.
template <class V, class E>
MMREC_INLINE V multiply_words(const V& a, const V& b, const V& c) {
  if constexpr (steps_in_word<V, E> == 1)
    return fma(a, b, c);
  else
    return dot_pairs(a, b, c);
}

/// The word of steps from k on and of column j; steps that do not exist are zero.
template <class V, class E, class Operand>
MMREC_INLINE void put_word(E* to, const Operand& b, index_t k, index_t j) {
  if constexpr (steps_in_word<V, E> == 1) {
    *to = b.template get<E>(k, j);
  } else {
    to[0] = *b.at(k, j);
    to[1] = k + 1 < b.extent(0) ? *b.at(k + 1, j) : std::bit_cast<E>(std::uint16_t{0});
  }
}

/// The words of W columns, which are contiguous in the rows of its steps.
template <class V, class E, class T>
MMREC_INLINE V words_of_rows(const T* even, const T* odd) {
  if constexpr (steps_in_word<V, E> == 1)
    return load_lanes<V>(even);
  else
    return zip_pairs<V>(load_bits<V>(even), load_bits<V>(odd));
}

/// The first n of them; the others are zero.
template <class V, class E, class T>
MMREC_INLINE V words_of_rows_n(const T* even, const T* odd, index_t n) {
  const auto live = static_cast<std::size_t>(n);
  if constexpr (steps_in_word<V, E> == 1)
    return load_lanes_n<V>(even, live);
  else
    return zip_pairs<V>(load_bits_n<V>(even, live), load_bits_n<V>(odd, live));
}

/// W words of row i from column k on, which are contiguous, where columns are steps.
template <class V, class E, class Operand>
MMREC_INLINE V words_along(const Operand& a, index_t i, index_t k) {
  if constexpr (steps_in_word<V, E> == 1)
    return a.template load_row<V>(i, k);
  else
    return load_words<V>(a.at(i, k));
}

/// W words of W columns that are contiguous along k, from `offset` on: tile[i] has the i-th of
/// each.
template <class V, class E, class T>
MMREC_INLINE void transposed_words(std::array<V, V::size>& tile,
                                   const std::array<const T*, V::size>& from, index_t offset) {
  if constexpr (steps_in_word<V, E> == 1) {
    load_transposed(tile, from, offset);
  } else {
    raw_t<V> r[V::size];
    detail::load_words<V>(r, from, offset);
    for (std::size_t i = 0; i < V::size; ++i) tile[i] = from_raw<V>(r[i]);
  }
}

/// One batch to p, or two to where they lie next to each other.
template <class V, class T>
MMREC_INLINE void store_batches(T* p, const std::array<V, 1>& v) {
  store_lanes(p, v[0]);
}
template <class V, class T>
MMREC_INLINE void store_batches(T* p, const std::array<V, 2>& v) {
  if constexpr (storage_format<T> == format::bfloat16 && lanes<V> == 16) {
    constexpr std::size_t n = lanes<V>, upper = std::endian::native == std::endian::little;
    using halves = vector_t<std::uint16_t, 2 * n>;
    const auto a = std::bit_cast<halves>(rounded_to_bfloat16<V>(raw(v[0]))),
               b = std::bit_cast<halves>(rounded_to_bfloat16<V>(raw(v[1])));
    const halves bits = [&]<std::size_t... I>(std::index_sequence<I...>) MMREC_LAMBDA_INLINE {
      return __builtin_shufflevector(a, b, (2 * I + upper)...);  // one shuffle instead of two
    }(std::make_index_sequence<2 * n>{});
    std::memcpy(static_cast<void*>(p), &bits, sizeof bits);
  } else {
    store_lanes(p, v[0]);
    store_lanes(p + lanes<V>, v[1]);
  }
}

}  // namespace mmrec::simd
