// SPDX-License-Identifier: Apache-2.0
// Everything. A translation unit that needs one primitive compiles faster with that primitive's
// header.
#pragma once

#include <mmrec/activation.hpp>
#include <mmrec/attention.hpp>
#include <mmrec/backend.hpp>
#include <mmrec/block.hpp>
#include <mmrec/decay.hpp>
#include <mmrec/dtype.hpp>
#include <mmrec/embedding.hpp>
#include <mmrec/error.hpp>
#include <mmrec/hds.hpp>
#include <mmrec/integrate.hpp>
#include <mmrec/linear.hpp>
#include <mmrec/loss.hpp>
#include <mmrec/memory.hpp>
#include <mmrec/memory_state.hpp>
#include <mmrec/model.hpp>
#include <mmrec/norm.hpp>
#include <mmrec/optimizer.hpp>
#include <mmrec/random.hpp>
#include <mmrec/recurrence.hpp>
#include <mmrec/scan.hpp>
#include <mmrec/transform.hpp>
#include <mmrec/version.hpp>
#include <mmrec/view.hpp>
