// SPDX-License-Identifier: Apache-2.0
// Backend tags. The first argument of every mmrec function says where it runs and with which
// resources; nothing else does, and there is no fallback from one to another.
//
//   mmrec::backend::reference{}         plain loops: the definition the others are tested against
//   mmrec::backend::simd{}              this CPU, the vector registers this file is compiled for,
//                                       all cores
//   mmrec::backend::simd{.threads = 1}
//   mmrec::backend::cuda{stream}        the current GPU, on device pointers, in a .cu file
//
// The SIMD architecture is a template parameter, so two translation units that are compiled with
// different -m flags and linked together keep their own kernels.
#pragma once

#include <mmrec/memory.hpp>

#include <concepts>
#include <memory_resource>
#include <type_traits>

#if !defined(__CUDACC__) && __has_include(<xsimd/config/xsimd_arch.hpp>)
#if __has_include(<xsimd/config/xsimd_inline.hpp>)
#include <xsimd/config/xsimd_inline.hpp>  // version 13 needs it and does not include it
#endif
#include <xsimd/config/xsimd_arch.hpp>  // names of architectures only
#endif

namespace mmrec {

/// Stands for the architecture where xsimd cannot be used: in a .cu file, or when it is not
/// installed.
struct no_simd_arch;

#if !defined(__CUDACC__) && __has_include(<xsimd/config/xsimd_arch.hpp>)
/// Arch where files are also compiled for the dot product of bfloat16 pairs, which xsimd has no
/// name for: an architecture of its own, so that their kernels are.
template <class Arch>
struct with_dot_pairs : Arch {};

namespace detail {
// From version 13 on xsimd prefers the variant with integer dot products, whose multiply-adds it
// does not fuse before 14.
using xsimd_arch = std::conditional_t<std::derived_from<xsimd::default_arch, xsimd::avx2> &&
                                          xsimd::fma3<xsimd::avx2>::supported(),
                                      xsimd::fma3<xsimd::avx2>, xsimd::default_arch>;
#if defined(__AVX512BF16__)
constexpr bool compiled_for_dot_pairs = std::derived_from<xsimd_arch, xsimd::avx512f>;
#else
constexpr bool compiled_for_dot_pairs = false;
#endif
}  // namespace detail
using default_simd_arch =
    std::conditional_t<detail::compiled_for_dot_pairs, with_dot_pairs<detail::xsimd_arch>,
                       detail::xsimd_arch>;
#else
using default_simd_arch = no_simd_arch;
#endif

namespace backend {

struct reference {
  std::pmr::memory_resource* memory = nullptr;  // scratch; null: the thread's arena
};

/// The CPU's vector registers as xsimd's architecture Arch names them, for example
/// backend::simd_for<xsimd::fma3<xsimd::avx2>>.
template <class Arch>
struct simd_for {
  unsigned threads = 0;                         // 0: all cores
  std::pmr::memory_resource* memory = nullptr;  // scratch; null: the thread's arena
  using arch = Arch;
};

/// The architecture this translation unit is compiled for.
using simd = simd_for<default_simd_arch>;

/// The current device, on device pointers, in a .cu file. Calls are asynchronous: they only enqueue
/// work on the stream, and can be captured in a graph.
struct cuda {
  void* stream = nullptr;  // a cudaStream_t; null: the default stream
  void* memory = nullptr;  // scratch: a cudaMemPool_t; null: mmrec's own pool of the device
  /// Products of float matrices may round their factors to TF32 (10 bits of mantissa instead of 23)
  /// and so use the tensor cores; sums stay float.
  bool tf32 = false;
  /// Takes, of cuBLASLt's algorithms for a product, the one that is fastest on this device when a
  /// graph replays it, instead of the one that its heuristic names first. They are timed by the
  /// first call of each shape, which so waits for the stream and takes tens of milliseconds, or
  /// where products are large a hundred times as long as one. A call that is being captured times
  /// nothing: if no call before it has, its graph keeps the heuristic's. Another run may choose
  /// another algorithm, and with it another order of summation.
  bool autotune = false;
};

}  // namespace backend

template <class B>
inline constexpr bool is_backend = false;
template <>
inline constexpr bool is_backend<backend::reference> = true;
template <class Arch>
inline constexpr bool is_backend<backend::simd_for<Arch>> = true;
template <>
inline constexpr bool is_backend<backend::cuda> = true;

/// One of the tags in mmrec::backend.
template <class B>
concept backend_tag = is_backend<B>;

template <class B>
inline constexpr bool is_simd_without_xsimd = false;
template <>
inline constexpr bool is_simd_without_xsimd<backend::simd_for<no_simd_arch>> = true;

/// Is this file compiled by nvcc?
#if defined(__CUDACC__)
constexpr bool is_cuda_file = true;
#else
constexpr bool is_cuda_file = false;
#endif

/// Every public function asserts this first, so that the sentence, not a missing overload, is what
/// a user reads.
template <class B>
constexpr void require_built() {
  static_assert(!std::same_as<B, backend::cuda> || is_cuda_file,
                "mmrec: backend::cuda needs a .cu file, compiled by nvcc; pass backend::simd or "
                "backend::reference in a .cpp file");
  static_assert(!is_simd_without_xsimd<B>,
                "mmrec: backend::simd needs xsimd and a host .cpp file; install xsimd (Debian: "
                "libxsimd-dev) and do not use it in a .cu file, or pass backend::reference");
}

/// The memory resource of a CPU tag.
template <class B>
std::pmr::memory_resource* scratch_of(const B& b) {
  return b.memory ? b.memory : thread_arena();
}

/// Uninitialised scratch of n elements, in the backend's memory, for what is called during a scope.
template <class B, class T>
class scratch_for : public scratch<T> {
 public:
  scratch_for(const B& b, std::size_t n) : scratch<T>(scratch_of(b), n) {}
};

/// Functions on states, activations and models assert that the backend can address them.
template <class B, class Memory>
constexpr void require_memory() {
  static_assert(std::same_as<B, backend::cuda> == std::same_as<Memory, device_memory>,
                "mmrec: backend::cuda works on device_memory, for example model_pass<T, "
                "device_memory>, and the other backends on host_memory");
}

}  // namespace mmrec
