// SPDX-License-Identifier: Apache-2.0
#include <mmrec/mmrec.hpp>

#include <string>
#include <vector>

std::string wide_cumprod(const std::vector<float>& gamma, std::vector<float>& y,
                         const mmrec::view<float, 3>::extents_type& shape) {
  mmrec::cumprod(mmrec::backend::simd{}, mmrec::view<const float, 3>{gamma.data(), shape},
                 mmrec::view<float, 3>{y.data(), shape});
  return mmrec::default_simd_arch::name();
}
