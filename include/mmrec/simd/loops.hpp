// SPDX-License-Identifier: Apache-2.0
// The simd backend's side of loops.hpp: batches, the thread pool, the packed product.
#pragma once

#include <mmrec/loops.hpp>
#include <mmrec/simd/gemm.hpp>
#include <mmrec/simd/parallel.hpp>

namespace mmrec {

template <class Acc, class Arch>
struct lane_traits<xsimd::batch<Acc, Arch>> {
  using V = xsimd::batch<Acc, Arch>;
  static constexpr index_t count = static_cast<index_t>(V::size);
  template <class T>
  static MMREC_INLINE V load(const T* p, std::size_t live) {
    return live == V::size ? simd::load_lanes<V>(p) : simd::load_lanes_n<V>(p, live);
  }
  template <class T>
  static MMREC_INLINE void store(T* p, const V& v, std::size_t live) {
    if (live == V::size)
      simd::store_lanes(p, v);
    else
      simd::store_lanes_n(p, v, live);
  }
  static Acc sum(const V& v) { return simd::sum(v); }
  static Acc largest(const V& v) { return simd::largest(v); }
};

template <class Arch, class Acc>
struct lanes_for<backend::simd_for<Arch>, Acc> {
  using type = simd::batch<Acc, Arch>;
};

/// `cost` is the number of elements one row touches: short loops stay on the calling thread, and
/// rows are handed out in groups of a few thousand elements.
template <class Arch, class F>
void for_each_row(const backend::simd_for<Arch>& backend, index_t n, index_t cost, const F& f) {
  const index_t each = std::max<index_t>(1, cost);
  const unsigned threads = n * each < 16384 ? 1 : simd::thread_count(backend.threads);
  const index_t group =
      threads == 1 ? n : std::max<index_t>(1, std::min(4096 / each, n / (4 * index_t(threads))));
  simd::parallel_for_alike(threads, group ? (n + group - 1) / group : 0, [&](index_t task) {
    for (index_t i = task * group; i < std::min(n, (task + 1) * group); ++i) f(i);
  });
}
template <class Arch>
unsigned workers(const backend::simd_for<Arch>& backend) {
  return simd::thread_count(backend.threads);
}

template <class Arch, class Acc>
class product<backend::simd_for<Arch>, Acc> {
  using V = simd::batch<Acc, Arch>;
  using tuning = simd::gemm_tuning<V>;

 public:
  product(const backend::simd_for<Arch>& b, index_t depth, index_t columns)
      : threads_(b.threads), packed_(scratch_of(b), depth, columns) {}
  template <class Operand>
  void pack(const Operand& w) {
    packed_.pack(w, simd::thread_count(threads_));
  }
  static std::size_t workspace() { return static_cast<std::size_t>(simd::block_workspace<V>()); }

  template <class Operand, class Epilogue>
  void apply(const Operand& a, index_t row, index_t rows, Acc* work,
             const Epilogue& epilogue) const {
    const simd::results<V> finish(epilogue);
    for (index_t r = row; r < row + rows; r += tuning::block_rows)
      for (index_t c = 0; c < packed_.columns(); c += tuning::block_columns)
        simd::gemm_block<V>(a, packed_,
                            {r, std::min(tuning::block_rows, row + rows - r), c,
                             std::min(tuning::block_columns, packed_.columns() - c)},
                            false, work, finish);
  }

 private:
  unsigned threads_;
  simd::packed_matrix<V> packed_;
};

template <bool Transposed = false, class Arch, class T, std::size_t Rank>
auto as_operand(const backend::simd_for<Arch>&, const view<T, Rank>& a) {
  return simd::operand<std::remove_const_t<T>, Transposed>(a);
}

template <class Acc, class Arch, class OperandA, class OperandB, class Epilogue>
void multiply(const backend::simd_for<Arch>& backend, const OperandA& a, const OperandB& b,
              const Epilogue& epilogue) {
  simd::gemm<simd::batch<Acc, Arch>>(backend.threads, scratch_of(backend), a, b, epilogue);
}

}  // namespace mmrec
