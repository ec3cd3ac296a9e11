// SPDX-License-Identifier: Apache-2.0
// Rows that come to shared memory while others are worked on, without a register that waits.
//
// A row comes as the aligned words of 16 bytes that it lies in; each thread asks for every team-th of
// them, and a place is asked for again as soon as what is in it has been used. Of the words of a row
// that does not begin at a multiple of 16 bytes the first has elements that are not the row's.
#pragma once

#include <mmrec/cuda/reduce.cuh>

namespace mmrec::cuda {

/// The words that a row of n elements lies in.
template <class T>
struct row_words {
  const packed<T>* first = nullptr;
  index_t bytes = 0;  // to the end of the row
  int phase = 0;      // elements in front of it

  row_words() = default;
  __device__ row_words(const T* row, index_t n) : phase(phase_of(row)) {
    first = reinterpret_cast<const packed<T>*>(row - phase);
    bytes = n > 0 ? (n + phase) * static_cast<index_t>(sizeof(T)) : 0;
  }
  __device__ index_t count() const { return (bytes + 15) / 16; }

  /// Word w of the row, on its way to *to.
  __device__ __forceinline__ void ask(packed<T>* to, index_t w) const {
    const index_t left = bytes - 16 * w;
    if (left <= 0) return;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"(static_cast<unsigned>(__cvta_generic_to_shared(to))), "l"(first + w),
                   "r"(left < 16 ? static_cast<int>(left) : 16)
                 : "memory");
  }
  /// Word w, right away.
  __device__ __forceinline__ packed<T> read(index_t w) const {
    const index_t left = bytes - 16 * w;
    if (left >= 16) return load_aligned(reinterpret_cast<const T*>(first + w));
    return load_edge(stretch<const T>{reinterpret_cast<const T*>(first + w), 0,
                                      static_cast<int>(max(left, index_t{0}) / sizeof(T))},
                     0, packed<T>{});
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
