// SPDX-License-Identifier: Apache-2.0
// The block's recurrence against the reference data, forward and backward, by both solvers; the
// parallel one in one window and in windows that divide no length. Call gated is the reference
// model's form, call plain the one without the mix gate (n_t = z_t + gamma_t o h_{t-1} is m = 1).
#include <mmrec/recurrence.hpp>

#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/compiled_solvers.hpp"
#include "support/fixtures.hpp"
#include "support/module_fixtures.hpp"
#include "support/runs.hpp"

namespace {

using namespace mmrec::testing;
using mmrec::index_t;
using mmrec::view;

template <class T, class Backend>
void compare_call(const Backend& backend, fixture_check& check, const std::string& call,
                  const mmrec::recurrence_form& form) {
  const npz& data = check.data();
  parameter_set<T> p(data);
  const dense<T> z(data.array("in/z")), gamma(data.array("in/gamma")), h0(data.array("in/h_init"));
  const auto [batch, time, d] = z.cube().extents();
  const mmrec::recurrence_weights<T> weights{
      p("gate_block_weight").rows(), p("gate_block_bias").vector(), p("gate_mdi_weight").rows(),
      p("gate_mdi_bias").vector()};

  auto h = dense<T>::unwritten(z.shape()), final = dense<T>::unwritten(h0.shape());
  auto gates = dense<T>::unwritten({batch, time, 2 * d});
  const auto report = mmrec::recurrence(
      backend, z.cube(), gamma.cube(), weights, h.cube(),
      {.initial = h0.rows(), .final = final.rows(), .gates = gates.cube(), .form = form});
  CHECK(report.solver == form.solver);
  check.compare(call + "output", h.values());
  check.compare(call + "final", final.values());
  if (!has_gradients(data, call)) return;

  const dense<T> dh(data.array("R/output")), dfinal(data.array("R/final"));
  auto dz = dense<T>::unwritten(z.shape()), dgamma = dz, dh0 = dense<T>::unwritten(h0.shape());
  mmrec::recurrence_gradients<T> gradients{.gates = gates.cube(),
                                           .dz = dz.cube(),
                                           .dgamma = dgamma.cube(),
                                           .dblock = p.gradient("gate_block_weight").rows(),
                                           .dblock_bias = p.gradient("gate_block_bias").vector(),
                                           .dmix = p.gradient("gate_mdi_weight").rows(),
                                           .dmix_bias = p.gradient("gate_mdi_bias").vector(),
                                           .initial = h0.rows(),
                                           .dfinal = dfinal.rows(),
                                           .dinitial = dh0.rows(),
                                           .accumulate_parameters = true,
                                           .form = form};
  const auto adjoint = mmrec::recurrence_backward(backend, dh.cube(), z.cube(), gamma.cube(),
                                                  h.cube(), weights, gradients);
  CHECK(adjoint.solver == form.solver);
  compare_gradient(check, call, "in/z", dz.values());
  compare_gradient(check, call, "in/gamma", dgamma.values());
  compare_gradient(check, call, "in/h_init", dh0.values());
  p.compare_gradients(check, call);
}

}  // namespace

TEMPLATE_TEST_CASE("recurrence: fixtures", "[fixtures][gradients]", reference_float,
                   reference_double, tested_float, tested_double) {
  using mmrec::solver;
  struct way {
    enum solver solver;
    index_t window;
  };
  for (const fixture_file& file : fixture_files("recurrence")) {
    for (const way how :
         {way{solver::sequential, 512}, way{solver::parallel, 512}, way{solver::parallel, 5}}) {
      fixture_check check(file);
      for (const std::string call : {"gated/", "plain/"}) {
        if (!check.expects(call + "output")) continue;
        CAPTURE(file.name(), call, how.solver == solver::parallel, how.window);
        compare_call<typename TestType::element_type>(
            TestType::backend(), check, call,
            {.mix_gate = call == "gated/", .solver = how.solver, .window = how.window});
      }
    }
  }
}
