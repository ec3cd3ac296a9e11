// SPDX-License-Identifier: Apache-2.0
// f(backend) for the reference and for the simd backend; a failure says which.
#pragma once

#include <mmrec/backend.hpp>

#include "catch.hpp"

namespace mmrec::testing {

template <class F>
void on_both_backends(const F& f) {
  {
    INFO("reference");
    f(backend::reference{});
  }
  {
    INFO("simd");
    f(backend::simd{});
  }
}

}  // namespace mmrec::testing
