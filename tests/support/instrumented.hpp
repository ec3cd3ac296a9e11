// SPDX-License-Identifier: Apache-2.0
// Is this compiled with AddressSanitizer? Memory accesses are then looked at, in code that runs
// many times slower, and the same ones need no second look: a test of every combination of its
// parameters may take a part of them in which each two values still meet. The whole of it runs in
// the other builds.
#pragma once

namespace mmrec::testing {

#if defined(__SANITIZE_ADDRESS__)
inline constexpr bool instrumented = true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
inline constexpr bool instrumented = true;
#else
inline constexpr bool instrumented = false;
#endif
#else
inline constexpr bool instrumented = false;
#endif

}  // namespace mmrec::testing
