// SPDX-License-Identifier: Apache-2.0
// Backend and element type of one instance of a typed test. The aliases are what CTest shows:
//   TEMPLATE_TEST_CASE("cumprod: fixtures", "[fixtures][scan]", reference_float, simd_float, ...)
#pragma once

#include <mmrec/backend.hpp>

#include "on_both_backends.hpp"

namespace mmrec::testing {

template <class Backend, class T>
struct run {
  using backend_type = Backend;
  using element_type = T;
  static Backend backend() { return {}; }
};

using reference_float = run<backend::reference, float>;
using reference_double = run<backend::reference, double>;
using simd_float = run<backend::simd, float>;
using simd_double = run<backend::simd, double>;

// The backend under test: simd, or the GPU in a .cu file.
using tested_float = run<tested, float>;
using tested_double = run<tested, double>;

}  // namespace mmrec::testing
