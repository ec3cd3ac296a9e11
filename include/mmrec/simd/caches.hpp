// SPDX-License-Identifier: Apache-2.0
// What the kernels ask about this machine's caches. As in parallel.hpp, nothing here is a plain
// inline function.
#pragma once

#include <mmrec/backend.hpp>
#include <mmrec/error.hpp>
#include <mmrec/simd/batch.hpp>
#include <mmrec/view.hpp>

#include <cstddef>
#include <cstdio>

#if __has_include(<unistd.h>)
#include <unistd.h>
#endif

namespace mmrec::simd {

/// Bytes of the largest cache that a core reaches; 0 where the system does not say.
template <class Arch>
MMREC_COLD std::size_t ask_last_level_cache() {
  std::size_t bytes = 0;
#if defined(__linux__)
  // glibc may say how much all caches of a processor hold, where each serves some of its cores.
  if (std::FILE* file = std::fopen("/sys/devices/system/cpu/cpu0/cache/index3/size", "r")) {
    unsigned long kibibytes = 0;
    char unit = 0;
    if (std::fscanf(file, "%lu%c", &kibibytes, &unit) == 2 && unit == 'K')
      bytes = std::size_t{kibibytes} << 10;
    std::fclose(file);
  }
#endif
#if defined(_SC_LEVEL3_CACHE_SIZE)
  if (const long said = bytes ? 0 : sysconf(_SC_LEVEL3_CACHE_SIZE); said > 0)
    bytes = static_cast<std::size_t>(said);
#endif
  return bytes;
}

/// The same, or a common size; the system is asked once.
template <class Arch = default_simd_arch>
MMREC_INLINE std::size_t last_level_cache() {
  static const std::size_t bytes = ask_last_level_cache<Arch>();
  return bytes ? bytes : std::size_t{32} << 20;
}

/// How many lines a multiple of a page apart the first-level cache holds, or a common number.
MMREC_INLINE index_t first_level_ways() {
#if defined(_SC_LEVEL1_DCACHE_ASSOC)
  static const long ways = sysconf(_SC_LEVEL1_DCACHE_ASSOC);
  if (ways > 0) return ways;
#endif
  return 8;
}

}  // namespace mmrec::simd
