// SPDX-License-Identifier: Apache-2.0
#include "../network_of.hpp"

#include <Eigen/Core>

template std::unique_ptr<mmrec::examples::network>
mmrec::examples::make_network_of<mmrec::backend::cuda, Eigen::bfloat16>(const network_options&);
