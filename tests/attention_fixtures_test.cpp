// SPDX-License-Identifier: Apache-2.0
// Multi-memory attention, with its query and output layers and the pooled bank it reads, against
// the reference data. Call q adds half of a second query; call noq does not.
//
//   q = W_q query + b (+ 0.5 q_input);  y = W_o concat_heads(softmax(q K^T / sqrt(d)) V) + b
#include <mmrec/attention.hpp>
#include <mmrec/hds.hpp>
#include <mmrec/linear.hpp>
#include <mmrec/transform.hpp>

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

// The top level of a bank: the batch's own, or one for all by a stride of 0.
template <class T>
struct pooled {
  dense<T> bank, top;
  index_t batch;

  template <class Backend>
  pooled(const Backend& backend, const npy_array& array, index_t batch_size)
      : bank(array),
        top(dense<T>::unwritten(
            {bank.cube().extent(0), mmrec::hds_slots(bank.cube().extent(1))[2], bank.width()})),
        batch(batch_size) {
    mmrec::hds_top(around(backend), view<const T, 3>(bank.cube()), top.cube());
  }
  view<const T, 3> operator()() const {
    const view<const T, 3> own = top.cube();
    if (own.extent(0) == batch) return own;
    REQUIRE(own.extent(0) == 1);
    return {own.data_handle(), {batch, own.extent(1), own.extent(2)}, {0, own.stride(1), 1}};
  }
  template <class Backend>
  std::vector<T> gradient(const Backend& backend, const dense<T>& dtop) const {
    auto dbank = dense<T>::zeros({batch, bank.cube().extent(1), bank.width()});
    mmrec::hds_top_backward(around(backend), view<const T, 3>(dtop.cube()), dbank.cube());
    return bank_gradient(view<const T, 3>(dbank.cube()),
                         static_cast<index_t>(bank.values().size()));
  }
};

}  // namespace

TEMPLATE_TEST_CASE("attention: fixtures", "[fixtures][gradients]", reference_float,
                   reference_double, tested_float, tested_double) {
  using T = typename TestType::element_type;
  const auto backend = TestType::backend();
  for (const fixture_file& file : fixture_files("attention")) {
    fixture_check check(file);
    const npz& data = check.data();
    const index_t heads = number_in_name(file.name(), "H", 0);
    REQUIRE(heads > 0);
    const dense<T> query(data.array("in/query")), q_input(data.array("in/q_input"));
    const auto extents = query.cube().extents();
    const pooled<T> k(backend, data.array("in/long_k"), extents[0]);
    const pooled<T> v(backend, data.array("in/long_v"), extents[0]);
    const index_t slots = k().extent(1);
    for (const std::string call : {"noq/", "q/"}) {
      if (!check.expects(call + "y")) continue;
      CAPTURE(file.name(), call);
      const bool with_q = call == "q/";
      parameter_set<T> p(data);
      auto q = dense<T>::unwritten(query.shape()), read = q, y = q;
      auto probabilities = dense<T>::unwritten({extents[0], heads, extents[1], slots});
      const view<T, 4> saved(probabilities.vector().data_handle(),
                             {extents[0], heads, extents[1], slots});
      mmrec::linear(around(backend), query.rows(), p("W_q.weight").rows(), q.rows(),
                    {.bias = p("W_q.bias").vector()});
      if (with_q) {
        mmrec::transform(
            around(backend),
            []<class V>(const V& a, const V& b) { return a + mmrec::math::constant<V>(0.5) * b; },
            q.rows(), q.rows(), q_input.rows());
      }
      mmrec::attention(backend, q.cube(), k(), v(), heads, read.cube(), {.probabilities = saved});
      mmrec::linear(around(backend), read.rows(), p("W_o.weight").rows(), y.rows(),
                    {.bias = p("W_o.bias").vector()});
      check.compare(call + "y", y.values());
      if (!has_gradients(data, call)) continue;

      const dense<T> dy(data.array("R/y"));
      auto dread = dense<T>::unwritten(query.shape()), dq = dread, dquery = dread;
      auto dk = dense<T>::unwritten({extents[0], slots, query.width()}), dv = dk;
      mmrec::linear_backward(around(backend), dy.rows(), read.rows(), p("W_o.weight").rows(),
                             {.dx = dread.rows(),
                              .dw = p.gradient("W_o.weight").rows(),
                              .dbias = p.gradient("W_o.bias").vector()});
      mmrec::attention_backward(backend, dread.cube(), q.cube(), k(), v(), saved, heads,
                                {.dq = dq.cube(), .dk = dk.cube(), .dv = dv.cube()});
      mmrec::linear_backward(around(backend), dq.rows(), query.rows(), p("W_q.weight").rows(),
                             {.dx = dquery.rows(),
                              .dw = p.gradient("W_q.weight").rows(),
                              .dbias = p.gradient("W_q.bias").vector()});
      std::vector<T> dq_input = dq.values();
      for (T& g : dq_input) g *= with_q ? T(0.5) : T(0);
      compare_gradient(check, call, "in/query", dquery.values());
      compare_gradient(check, call, "in/q_input", dq_input);
      compare_gradient(check, call, "in/long_k", k.gradient(backend, dk));
      compare_gradient(check, call, "in/long_v", v.gradient(backend, dv));
      p.compare_gradients(check, call);
    }
  }
}
