// SPDX-License-Identifier: Apache-2.0
// How blocks hand values to one another while a kernel runs.
//
//   words       through L2, to every block: a word says itself whether it was written, so that no
//               flag and no order of memory is needed
//   sums        through the shared memory of a cluster's blocks: stores that a barrier in the
//               receiving block counts
#pragma once

#include <mmrec/cuda/fragments.cuh>

namespace mmrec::cuda::detail {

/// A word that says that nobody has written here yet: a NaN that no arithmetic gives.
template <class Acc>
using exchange_bits = std::conditional_t<sizeof(Acc) == 8, std::uint64_t, std::uint32_t>;
template <class Acc>
inline constexpr exchange_bits<Acc> not_written = ~exchange_bits<Acc>{0};

template <class Acc>
__device__ __forceinline__ bool written(const Acc& v) {
  return std::bit_cast<exchange_bits<Acc>>(v) != not_written<Acc>;
}
template <class Acc>
__device__ __forceinline__ bool written(const pack<Acc>& p) {
  // By the largest as bits: a chain of comparisons would take longer.
  const auto larger = [](exchange_bits<Acc> a, exchange_bits<Acc> b) { return a < b ? b : a; };
  const auto bits = [&](int e) { return std::bit_cast<exchange_bits<Acc>>(p.element[e]); };
  auto largest = larger(bits(0), bits(1));
  if constexpr (pack_size<Acc> == 4) largest = larger(largest, larger(bits(2), bits(3)));
  return largest != not_written<Acc>;
}
/// The same value, but never the word above.
template <class Acc>
__device__ __forceinline__ Acc sendable(const Acc& v) {
  return written(v) ? v : std::numeric_limits<Acc>::quiet_NaN();
}

// The words are messages themselves, so no order between them and other memory is needed: relaxed.
__device__ __forceinline__ pack<float> receive(const float* p) {
  pack<float> v;
  asm volatile("ld.relaxed.gpu.global.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.element[0]), "=f"(v.element[1]), "=f"(v.element[2]), "=f"(v.element[3])
               : "l"(p)
               : "memory");
  return v;
}
__device__ __forceinline__ pack<double> receive(const double* p) {
  pack<double> v;
  asm volatile("ld.relaxed.gpu.global.v2.f64 {%0, %1}, [%2];"
               : "=d"(v.element[0]), "=d"(v.element[1])
               : "l"(p)
               : "memory");
  return v;
}
__device__ __forceinline__ void send(float* p, float v) {
  asm volatile("st.relaxed.gpu.global.f32 [%0], %1;" : : "l"(p), "f"(sendable(v)) : "memory");
}
__device__ __forceinline__ void send(double* p, double v) {
  asm volatile("st.relaxed.gpu.global.f64 [%0], %1;" : : "l"(p), "d"(sendable(v)) : "memory");
}

/// The vectors of some steps, one to a slot, for all rows of the batch. What a warp asks for at
/// once, a fragment's depth of a tile of rows, lies in one piece, which is whole lines of L2: a
/// row's own piece of it is half a line.
template <class Acc>
struct exchanged {
  static constexpr index_t depth = fragment_depth<Acc>;
  Acc* data = nullptr;  // (batch / rows, slots, pitch / depth, rows, depth)
  index_t slots = 0, pitch = 0;
  int rows = fragment_columns;  // of a tile, or the batch if it has fewer

  exchanged() = default;
  exchanged(index_t batch, index_t slots_, index_t pitch_) : slots(slots_), pitch(pitch_) {
    if (batch < rows) rows = batch > 0 ? static_cast<int>(batch) : 1;
  }
  __host__ __device__ index_t tiles(index_t batch) const { return (batch + rows - 1) / rows; }
  index_t words(index_t batch) const { return tiles(batch) * rows * slots * pitch; }
  /// To a row that is `far` rows, a multiple of a tile's, and to a slot that is `steps` further.
  __host__ __device__ index_t way(index_t far, index_t steps) const {
    return (far * slots + steps * rows) * pitch;
  }
  __device__ Acc* operator()(index_t b, index_t slot) const {
    return data + way(b - b % rows, slot) + b % rows * depth;
  }
  /// Where word j of a vector lies.
  __device__ index_t place(index_t j) const { return j + j / depth * depth * (rows - 1); }
  __device__ int stride() const { return rows * static_cast<int>(depth); }  // of packs
};

/// Packs of one row of the vector, on their way; of[k] is zero from the pack `count` on.
template <class Acc, int Count>
struct incoming {
  pack<Acc> of[Count];
  int stride;  // from pack to pack in memory

  /// N of them, from the pack `first` on. `from`: the lane's first pack.
  template <int N = Count>
  __device__ __forceinline__ void request(const Acc* from, int count, int first = 0) {
#pragma unroll
    for (int k = first; k < first + N; ++k) {
      of[k] = {};
      if (k < count) of[k] = receive(from + k * stride);
    }
  }
  /// Until all are there.
  __device__ __forceinline__ void wait(const Acc* from) {
    for (;;) {
      bool ready = true;
#pragma unroll
      for (int k = 0; k < Count; ++k) ready = ready & written(of[k]);
      if (!__any_sync(all_lanes, !ready)) return;
#pragma unroll
      for (int k = 0; k < Count; ++k)
        if (!written(of[k])) of[k] = receive(from + k * stride);
    }
  }
};

/// Clusters, and stores between the blocks of one, come with sm_90.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
inline constexpr bool has_clusters = false;
#else
inline constexpr bool has_clusters = true;
#endif

/// An address in the shared memory of this block, and of the cluster's block `rank`.
using shared_address = std::uint32_t;
__device__ __forceinline__ shared_address address_of(const void* p) {
  return static_cast<shared_address>(__cvta_generic_to_shared(p));
}
__device__ __forceinline__ shared_address address_in(shared_address own, int rank) {
  shared_address a;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(a) : "r"(own), "r"(rank));
  return a;
}
/// All threads of all blocks of the cluster.
__device__ __forceinline__ void cluster_barrier() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;"
               :
               :
               : "memory");
}

/// Counts the threads that arrive here and the bytes that the cluster's other blocks store; one
/// thread says how many bytes a phase has.
struct arrivals {
  std::uint64_t barrier;

  __device__ void begin(int arriving) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;"
                 :
                 : "r"(address_of(&barrier)), "r"(arriving)
                 : "memory");
  }
  __device__ void arrive() {
    [[maybe_unused]] std::uint64_t state;
    asm volatile("mbarrier.arrive.shared::cta.b64 %0, [%1];"
                 : "=l"(state)
                 : "r"(address_of(&barrier))
                 : "memory");
  }
  /// In the cluster's block `rank`. Relaxed: a release would wait for all stores on their way to
  /// L2, and nothing that was written is handed over here. (The PTX of nvcc 12.6 has only a
  /// release.)
  __device__ void arrive_in(int rank) {
#if __CUDACC_VER_MAJOR__ > 12 || __CUDACC_VER_MINOR__ >= 8
    asm volatile("mbarrier.arrive.relaxed.cluster.shared::cluster.b64 _, [%0];"
#else
    asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];"
#endif
                 :
                 : "r"(address_in(address_of(&barrier), rank))
                 : "memory");
  }
  __device__ void expect(int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
                 :
                 : "r"(address_of(&barrier)), "r"(bytes)
                 : "memory");
  }
  /// Until the phase of this parity has ended. Shared: others than this block's threads took part.
  template <bool Shared>
  __device__ void wait(unsigned parity) {
    unsigned done;
    do {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
      asm volatile(
          "{\n.reg .pred p;\nmbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2;\n"
          "selp.u32 %0, 1, 0, p;\n}"
          : "=r"(done)
          : "r"(address_of(&barrier)), "r"(parity)
          : "memory");
#else
      if constexpr (Shared)
        asm volatile(
            "{\n.reg .pred p;\n"
            "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n"
            "selp.u32 %0, 1, 0, p;\n}"
            : "=r"(done)
            : "r"(address_of(&barrier)), "r"(parity)
            : "memory");
      else
        asm volatile(
            "{\n.reg .pred p;\n"
            "mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 p, [%1], %2;\n"
            "selp.u32 %0, 1, 0, p;\n}"
            : "=r"(done)
            : "r"(address_of(&barrier)), "r"(parity)
            : "memory");
#endif
    } while (!done);
  }
};
/// For so many of the multiprocessor's clocks.
__device__ __forceinline__ void pause(unsigned clocks) {
  const auto now = [] { return static_cast<unsigned>(clock64()); };
  for (const unsigned begun = now(); now() - begun < clocks;) {
  }
}
/// Stores neighbours at `to` and counts them at `counter`, both in one block of the cluster. Every
/// lane's store is counted by itself, about one in a clock.
template <class Acc, int N>
__device__ __forceinline__ void store_in(shared_address to, shared_address counter,
                                         const pack<Acc, N>& v) {
  static_assert(N == 1 || N == 2);
  const auto bits = [&](int i) { return std::bit_cast<exchange_bits<Acc>>(v.element[i]); };
  if constexpr (sizeof(Acc) == 4 && N == 1)
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %2, [%1];"
                 :
                 : "r"(to), "r"(counter), "r"(bits(0))
                 : "memory");
  else if constexpr (sizeof(Acc) == 4)
    asm volatile(
        "st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [%0], {%2, %3}, [%1];"
        :
        : "r"(to), "r"(counter), "r"(bits(0)), "r"(bits(1))
        : "memory");
  else if constexpr (N == 1)
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.b64 [%0], %2, [%1];"
                 :
                 : "r"(to), "r"(counter), "l"(bits(0))
                 : "memory");
  else
    asm volatile(
        "st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.b64 [%0], {%2, %3}, [%1];"
        :
        : "r"(to), "r"(counter), "l"(bits(0)), "l"(bits(1))
        : "memory");
}

}  // namespace mmrec::cuda::detail
