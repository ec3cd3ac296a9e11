// SPDX-License-Identifier: Apache-2.0
#include "../network_of.hpp"

template std::unique_ptr<mmrec::examples::network>
mmrec::examples::make_network_of<mmrec::backend::cuda, float>(const network_options&);
