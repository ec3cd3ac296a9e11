// SPDX-License-Identifier: Apache-2.0
// The SIMD architectures this file is compiled for that are narrower than the widest, which all
// other tests use; that one alone where there are none.
#pragma once

#include <mmrec/backend.hpp>

#include <xsimd/xsimd.hpp>

#include <tuple>
#include <type_traits>

namespace mmrec::testing {

template <class... Arch>
using narrower_architectures = decltype(std::tuple_cat(
    std::declval<std::conditional_t<Arch::supported() && !std::is_same_v<Arch, default_simd_arch>,
                                    std::tuple<Arch>, std::tuple<>>>()...));
using known_architectures =
    narrower_architectures<xsimd::sse2, xsimd::sse4_2, xsimd::fma3<xsimd::avx2>, xsimd::avx512bw,
                           xsimd::neon64>;
using all_architectures = std::conditional_t<(std::tuple_size_v<known_architectures> > 0),
                                             known_architectures, std::tuple<default_simd_arch>>;

}  // namespace mmrec::testing
