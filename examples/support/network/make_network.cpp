// SPDX-License-Identifier: Apache-2.0
#include "../cpu.hpp"
#include "../network.hpp"

namespace mmrec::examples {

template <class Backend>
static std::unique_ptr<network> make(const network_options& options) {
  if (options.dtype == "float") return make_network_of<Backend, float>(options);
  if (options.dtype == "double") return make_network_of<Backend, double>(options);
  if (options.dtype == "bfloat16") return make_network_of<Backend, Eigen::bfloat16>(options);
  if (options.dtype == "half") return make_network_of<Backend, Eigen::half>(options);
  throw error("make_network", "dtype", "float, double, bfloat16 or half", options.dtype);
}

std::unique_ptr<network> make_network(const network_options& options) {
  require_backend(options.backend);
  check_positive("make_network", "batch", options.batch);
  check_positive("make_network", "time", options.time);
  if (options.backend == "reference") return make<backend::reference>(options);
#if defined(MMREC_EXAMPLES_CUDA)
  if (options.backend == "cuda") return make<backend::cuda>(options);
#endif
  return make<backend::simd>(options);
}

}  // namespace mmrec::examples
