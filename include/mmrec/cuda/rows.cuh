// SPDX-License-Identifier: Apache-2.0
// Rows of elements on the device, in packs of 16 bytes.
//
// Which elements a thread has of a row does not depend on where the row lies: of one that does not
// begin at a multiple of 16 bytes (an odd pitch, a slice) a pack is cut out of the two aligned ones
// that it lies in. At the ends of a row, where those would hold elements of others, elements move
// one by one.
#pragma once

#include <mmrec/cuda/element.cuh>

#include <cstring>

namespace mmrec::cuda {

/// Neighbouring elements as the words they move in. Elements are taken out where they are needed:
/// of a struct of 16-bit elements each goes to a register of its own as soon as it arrives, and so
/// the access before has to end before the next begins.
template <class T>
struct packed {
  static constexpr int size = pack_size<T>, words = 4;
  std::uint32_t word[words];

  static __device__ packed all(const T& value) {
    packed x{};
#pragma unroll
    for (int e = 0; e < size; ++e) x.set(e, value);
    return x;
  }
  __device__ __forceinline__ T operator[](int e) const {
    if constexpr (sizeof(T) == 2)
      return std::bit_cast<T>(static_cast<std::uint16_t>(word[e / 2] >> (e % 2 * 16)));
    else if constexpr (sizeof(T) == 4)
      return std::bit_cast<T>(word[e]);
    else
      return std::bit_cast<T>(std::uint64_t{word[2 * e + 1]} << 32 | word[2 * e]);
  }
  __device__ __forceinline__ void set(int e, const T& value) {
    if constexpr (sizeof(T) == 2) {
      const std::uint32_t bits = std::bit_cast<std::uint16_t>(value);
      word[e / 2] =
          e % 2 ? (word[e / 2] & 0xffffu) | bits << 16 : (word[e / 2] & 0xffff0000u) | bits;
    } else if constexpr (sizeof(T) == 4) {
      word[e] = std::bit_cast<std::uint32_t>(value);
    } else {
      const auto bits = std::bit_cast<std::uint64_t>(value);
      word[2 * e] = static_cast<std::uint32_t>(bits);
      word[2 * e + 1] = static_cast<std::uint32_t>(bits >> 32);
    }
  }
  template <class Acc>
  __device__ __forceinline__ void widen_to(Acc (&v)[size]) const {
#pragma unroll
    for (int e = 0; e < size; ++e) v[e] = widen<Acc>((*this)[e]);
  }
  template <class Acc>
  static __device__ __forceinline__ packed narrowed(const Acc (&v)[size]) {
    packed x{};
    if constexpr (storage_format<T> == format::bfloat16) {
#pragma unroll
      for (int w = 0; w < words; ++w) {
        const auto two = __floats2bfloat162_rn(v[2 * w], v[2 * w + 1]);
        std::memcpy(&x.word[w], &two, sizeof two);
      }
    } else if constexpr (storage_format<T> == format::binary16) {
#pragma unroll
      for (int w = 0; w < words; ++w) {
        const auto two = __floats2half2_rn(v[2 * w], v[2 * w + 1]);
        std::memcpy(&x.word[w], &two, sizeof two);
      }
    } else {
#pragma unroll
      for (int e = 0; e < size; ++e) x.set(e, narrow<T>(v[e]));
    }
    return x;
  }
};

/// Elements between p and the multiple of 16 bytes below it.
template <class T>
__device__ __forceinline__ int phase_of(const T* p) {
  return static_cast<int>(reinterpret_cast<std::uintptr_t>(p) % 16 / sizeof(T));
}

/// The pack that begins `phase` elements, more than 0, behind the beginning of `low`; `high`
/// follows `low`.
template <class T>
__device__ __forceinline__ packed<T> joined(const packed<T>& low, const packed<T>& high,
                                            int phase) {
  const unsigned bytes = static_cast<unsigned>(phase) * sizeof(T);
  std::uint32_t w[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) w[i] = i < 4 ? low.word[i] : high.word[i - 4];
  // By two words, by one, by bytes.
#pragma unroll
  for (int i = 0; i < 6; ++i) w[i] = bytes & 8 ? w[i + 2] : w[i];
#pragma unroll
  for (int i = 0; i < 5; ++i) w[i] = bytes & 4 ? w[i + 1] : w[i];
  packed<T> x;
#pragma unroll
  for (int i = 0; i < 4; ++i) x.word[i] = __funnelshift_r(w[i], w[i + 1], bytes % 4 * 8);
  return x;
}

template <class T>
__device__ __forceinline__ packed<std::remove_const_t<T>> load_aligned(T* p) {
  return std::bit_cast<packed<std::remove_const_t<T>>>(*reinterpret_cast<const uint4*>(p));
}

/// In one instruction; the compiler makes four of some stores of a uint4.
template <class T>
__device__ __forceinline__ void store_aligned(T* p, const packed<T>& x) {
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};"
               :
               : "l"(__cvta_generic_to_global(p)), "r"(x.word[0]), "r"(x.word[1]), "r"(x.word[2]),
                 "r"(x.word[3])
               : "memory");
}

/// A piece of a row: elements [begin, end) from `data` on, of which `begin` is less than a pack.
template <class T>
struct row_span {
  T* data;
  int begin, end;

  /// At most `length` elements, from element `first` of a row of n on.
  static __device__ __forceinline__ row_span of(T* row, index_t n, index_t first, int length) {
    return {row + first, 0, static_cast<int>(min(max(n - first, index_t{0}), index_t{length}))};
  }
  __device__ __forceinline__ bool has(int j) const { return j >= begin && j < end; }
};

/// Elements [j, j + size), one by one; those that are not there are `absent`. Not inlined: a row
/// has an end or two, and the place of the code would be in every loop.
template <class T>
__device__ __noinline__ packed<T> load_edge(row_span<const T> from, int j, packed<T> absent) {
#pragma unroll
  for (int e = 0; e < packed<T>::size; ++e)
    if (from.has(j + e)) absent.set(e, from.data[j + e]);
  return absent;
}
template <class T>
__device__ __noinline__ void store_edge(row_span<T> to, int j, packed<T> x) {
#pragma unroll
  for (int e = 0; e < packed<T>::size; ++e)
    if (to.has(j + e)) to.data[j + e] = x[e];
}

/// Packs: the one from element `first` on, and every `step` elements another. What is not there is
/// `absent`. All are asked for before any is used, so that they come together.
template <int Count, class T, class E>
__device__ __forceinline__ void load_packs(packed<T> (&to)[Count], const row_span<E>& from,
                                           int first, int step, const packed<T>& absent = {}) {
  constexpr int size = packed<T>::size;
  const int phase = phase_of(from.data);
  if (phase == 0 && ((from.begin | from.end) & (size - 1)) == 0) {
#pragma unroll
    for (int k = 0; k < Count; ++k) {
      to[k] = absent;
      if (const int j = first + k * step; j < from.end) to[k] = load_aligned(from.data + j);
    }
    return;
  }
  const auto inside = [&](int j) {
    return j - phase >= from.begin && j - phase + (phase > 0 ? 2 * size : size) <= from.end;
  };
  constexpr int together = Count < 2 ? Count : 2;  // more would take too many registers
#pragma unroll
  for (int begin = 0; begin < Count; begin += together) {
    packed<T> next[together];
#pragma unroll
    for (int k = begin; k < begin + together; ++k) {
      to[k] = next[k - begin] = absent;
      if (const int j = first + k * step; inside(j)) {
        to[k] = load_aligned(from.data + j - phase);
        if (phase > 0) next[k - begin] = load_aligned(from.data + j - phase + size);
      }
    }
#pragma unroll
    for (int k = begin; k < begin + together; ++k) {
      const int j = first + k * step;
      if (inside(j)) {
        if (phase > 0) to[k] = joined(to[k], next[k - begin], phase);
      } else if (j < from.end) {
        to[k] = load_edge(row_span<const T>{from.data, from.begin, from.end}, j, absent);
      }
    }
  }
}

/// Elements [j, j + size), those that are there.
template <class T>
__device__ __forceinline__ void store_pack(const row_span<T>& to, int j, const packed<T>& x) {
  if (phase_of(to.data) == 0 && j >= to.begin && j + packed<T>::size <= to.end)
    store_aligned(to.data + j, x);
  else
    store_edge(to, j, x);
}

/// A whole row of n elements.
template <class T>
__device__ __forceinline__ row_span<T> span_of_row(T* row, index_t n) {
  return {row, 0, static_cast<int>(n)};
}

/// Are all packs of these matrices' rows whole and aligned?
template <class... E>
bool whole_rows(const view<E, 2>&... v) {
  return ((rows_of(v).aligned && v.extent(1) % pack_size<std::remove_const_t<E>> == 0) && ...);
}

}  // namespace mmrec::cuda
