// SPDX-License-Identifier: Apache-2.0
// The pooled hierarchy of the long-term bank against the reference data: every level of keys and
// values, and the gradient of a loss on all of them. A bank of one sequence is repeated for a
// larger batch; the gradient of what is shared is the sum.
#include <mmrec/hds.hpp>

#include <cstddef>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/fixtures.hpp"
#include "support/module_fixtures.hpp"
#include "support/runs.hpp"

namespace {

using namespace mmrec::testing;
using mmrec::index_t;
using mmrec::view;

// One bank, "k" or "v".
template <class T, class Backend>
void compare_bank(const Backend& backend, fixture_check& check, const std::string& which) {
  const npz& data = check.data();
  const dense<T> bank(data.array("in/long_" + which));
  const auto slots = mmrec::hds_slots(bank.cube().extent(1));
  const index_t batch = data.array("R/" + which + "0").shape.at(0), d = bank.width();
  view<const T, 3> level = bank.cube();
  const bool shared = level.extent(0) == 1;
  if (shared) level = {level.data_handle(), {batch, slots[0], d}, {0, d, 1}};
  REQUIRE(level.extent(0) == batch);

  std::vector<dense<T>> levels;
  for (const index_t m : slots) levels.push_back(dense<T>::unwritten({batch, m, d}));
  mmrec::transform(backend, mmrec::same_value{}, levels[0].cube(), level);
  for (std::size_t l = 0; l + 1 < levels.size(); ++l) {
    mmrec::hds_pool(backend, level, levels[l + 1].cube());
    level = levels[l + 1].cube();
  }
  for (std::size_t l = 0; l < levels.size(); ++l) {
    check.compare("level" + std::to_string(l) + "/" + which, levels[l].values());
  }
  // What attention reads is the same in one call.
  auto top = dense<T>::unwritten(levels.back().shape());
  mmrec::hds_top(backend, view<const T, 3>(levels[0].cube()), top.cube());
  CHECK(top.values() == levels.back().values());

  std::vector<dense<T>> gradients;
  for (std::size_t l = 0; l < levels.size(); ++l) {
    gradients.emplace_back(data.array("R/" + which + std::to_string(l)));
    REQUIRE(gradients[l].shape() == levels[l].shape());
  }
  for (std::size_t l = levels.size() - 1; l > 0; --l) {
    mmrec::hds_pool_backward(backend, view<const T, 3>(gradients[l].cube()),
                             gradients[l - 1].cube());
  }
  const view<const T, 3> dbank = gradients[0].cube();
  compare_gradient(check, "", "in/long_" + which,
                   bank_gradient(dbank, static_cast<index_t>(bank.values().size())));

  // The gradient of the top alone, which hds_top_backward gives.
  const dense<T> dtop(data.array("R/" + which + "2"));
  auto at_once = dense<T>::zeros(levels[0].shape()), middle = dense<T>::zeros(levels[1].shape()),
       in_two = at_once;
  mmrec::hds_top_backward(backend, dtop.cube(), at_once.cube());
  mmrec::hds_pool_backward(backend, dtop.cube(), middle.cube());
  mmrec::hds_pool_backward(backend, view<const T, 3>(middle.cube()), in_two.cube());
  CHECK(at_once.values() == in_two.values());
}

}  // namespace

TEMPLATE_TEST_CASE("hds: fixtures", "[fixtures][gradients]", reference_float, reference_double,
                   tested_float, tested_double) {
  for (const fixture_file& file : fixture_files("hds")) {
    CAPTURE(file.name());
    fixture_check check(file);
    for (const char* which : {"k", "v"}) {
      compare_bank<typename TestType::element_type>(TestType::backend(), check, which);
    }
  }
}
