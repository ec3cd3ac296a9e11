// SPDX-License-Identifier: Apache-2.0
// So that calls as short as a test's are shared out: threads that sleep are not woken for them.
#pragma once

#include <mmrec/backend.hpp>
#if !defined(__CUDACC__)
#include <mmrec/simd/parallel.hpp>
#endif

namespace mmrec::testing {

template <class B>
void wake_threads([[maybe_unused]] const B& backend) {
#if !defined(__CUDACC__)
  if constexpr (requires { backend.threads; })
    simd::parallel_for(backend.threads, 64, [](index_t) {});
#endif
}

}  // namespace mmrec::testing
