// SPDX-License-Identifier: Apache-2.0
// Backend tags. The first argument of every mmrec function says where it runs and with which
// resources; nothing else does, and there is no fallback from one to another.
//
//   mmrec::backend::reference{}         plain loops: the definition the others are tested against
//   mmrec::backend::simd{}              this CPU, the vector registers this file is compiled for,
//                                       all cores
//   mmrec::backend::simd{.threads = 1}
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
// From version 13 on xsimd prefers the variant with integer dot products, whose multiply-adds it
// does not fuse before 14.
using default_simd_arch = std::conditional_t<std::derived_from<xsimd::default_arch, xsimd::avx2> &&
                                                 xsimd::fma3<xsimd::avx2>::supported(),
                                             xsimd::fma3<xsimd::avx2>, xsimd::default_arch>;
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

/// GPU tag: `stream` is a cudaStream_t. Its kernels come with a later release; using it is a
/// compile-time error that says so.
struct cuda {
  void* stream = nullptr;
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

/// Every public function asserts this first, so that the sentence, not a missing overload, is what
/// a user reads.
template <class B>
constexpr void require_built() {
  static_assert(!std::same_as<B, backend::cuda>,
                "mmrec: backend::cuda is not part of this release; pass backend::simd or "
                "backend::reference");
  static_assert(!is_simd_without_xsimd<B>,
                "mmrec: backend::simd needs xsimd and a host .cpp file; install xsimd (Debian: "
                "libxsimd-dev) and do not use it in a .cu file, or pass backend::reference");
}

/// The memory resource of a CPU tag.
template <class B>
std::pmr::memory_resource* scratch_of(const B& b) {
  return b.memory ? b.memory : thread_arena();
}

}  // namespace mmrec
