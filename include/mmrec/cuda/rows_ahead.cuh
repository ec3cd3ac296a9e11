// SPDX-License-Identifier: Apache-2.0
// Rows that come to shared memory while others are worked on, without a register that waits.
//
// A row comes as the aligned words of 16 bytes that it lies in; each thread asks for every team-th
// of them, and a place is asked for again as soon as what is in it has been used. Of the words of a
// row that does not begin at a multiple of 16 bytes the first has elements that are not the row's.
#pragma once

#include <mmrec/cuda/reduce.cuh>

namespace mmrec::cuda {

/// 16 bytes on their way to shared memory.
__device__ __forceinline__ void ask_for(void* to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;"
               :
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(to))), "l"(from)
               : "memory");
}
/// The same; behind the first `there` of them, zeros.
__device__ __forceinline__ void ask_for(void* to, const void* from, int there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(to))), "l"(from), "r"(there)
               : "memory");
}

/// The same in pieces of 4 bytes, and a last one of 2 right away, for what does not have all 16:
/// compute-sanitizer takes a request for a part of its size as one for all of it.
__device__ __forceinline__ void ask_for_part(void* to, const void* from, int there) {
  auto* const words = static_cast<unsigned*>(to);
  const auto* const source = static_cast<const unsigned*>(from);
#pragma unroll
  for (int i = 0; i < 4; ++i)
    if (4 * i + 4 <= there)
      asm volatile("cp.async.ca.shared.global [%0], [%1], 4;"
                   :
                   : "r"(static_cast<unsigned>(__cvta_generic_to_shared(words + i))),
                     "l"(source + i)
                   : "memory");
    else
      words[i] = 4 * i < there ? *reinterpret_cast<const unsigned short*>(source + i) : 0u;
}

/// The words that a row of n elements lies in.
template <class T>
struct row_words {
  const packed<T>* first = nullptr;
  int count = 0;
  int last = 16;  // bytes of the last one that are the row's or in front of it
  int phase = 0;  // elements in front of the row

  row_words() = default;
  __device__ row_words(const T* row, index_t n) : phase(phase_of(row)) {
    first = reinterpret_cast<const packed<T>*>(row - phase);
    if (n == 0) return;
    const index_t bytes = (n + phase) * static_cast<index_t>(sizeof(T));
    count = static_cast<int>((bytes + 15) / 16);
    last = static_cast<int>(bytes - 16 * index_t{count - 1});
  }

  /// Word w of the row, if there is one, on its way to *to. Whole: as in every row.
  template <bool Whole = false>
  __device__ __forceinline__ void ask(packed<T>* to, int w) const {
    if (w >= count) return;
    if (Whole || w + 1 < count || last == 16)
      ask_for(to, first + w);
    else
      ask_for_part(to, first + w, last);
  }
  /// Word w, right away.
  __device__ __forceinline__ packed<T> read(int w) const {
    const T* const from = reinterpret_cast<const T*>(first + w);
    if (w + 1 < count || last == 16) return load_aligned(from);
    return load_edge(row_span<const T>{from, 0, last / static_cast<int>(sizeof(T))}, 0,
                     packed<T>{});
  }
};

/// What was asked for up to here is one group; wait until at most N groups are on their way.
__device__ __forceinline__ void end_group() {
  asm volatile("cp.async.commit_group;" : : : "memory");
}
template <int N>
__device__ __forceinline__ void wait_for_groups() {
  asm volatile("cp.async.wait_group %0;" : : "n"(N) : "memory");
}

}  // namespace mmrec::cuda
