// SPDX-License-Identifier: Apache-2.0
// The decay and the memory update of MDI against the reference data, and its planning-error loss
// composed of the same primitives. Calls of a file: fwd and fwd_ctx (update and decay), decay and
// decay_ctx (decay alone); _ctx with a context.
#include <mmrec/decay.hpp>
#include <mmrec/integrate.hpp>

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
using gelu = mmrec::activation::gelu;

// What a branch saves, for `rows` rows.
template <class T>
struct branch_memory {
  dense<T> preactivation, hidden, factor;
  branch_memory(index_t rows, const mmrec::decay_branch_weights<const T>& w)
      : preactivation(dense<T>::unwritten({rows, w.w0.extent(0)})),
        hidden(dense<T>::unwritten({rows, w.w0.extent(0)})),
        factor(dense<T>::unwritten({rows, w.w2.extent(0)})) {}
  mmrec::decay_branch_saved<T> saved() {
    return {preactivation.rows(), hidden.rows(), factor.rows()};
  }
  view<const T, 2> output() const { return factor.rows(); }
};

// The module of one call: forward on construction.
template <class T, class Backend>
class mdi {
 public:
  mdi(const Backend& backend, const npz& data, bool with_context, bool with_update)
      : backend_(backend),
        with_context_(with_context),
        with_update_(with_update),
        p_(data),
        z_(data.array("in/z")),
        h_prev_(data.array("in/h_prev")),
        context_(data.array("in/context")),
        decay_(z_.rows().extent(0), p_.branch("W_gamma")),
        from_context_(z_.rows().extent(0), p_.branch("W_context")),
        gamma_(dense<T>::unwritten(z_.shape())),
        gate_(gamma_),
        h_new_(gamma_) {
    mmrec::decay_branch<gelu>(backend, z(), p_.branch("W_gamma"), decay_.saved());
    if (with_context) {
      mmrec::decay_branch<gelu>(backend, context(), p_.branch("W_context"), from_context_.saved());
    }
    mmrec::combine_decay(backend, decay_.output(), context_factor(), gamma_.rows());
    if (with_update) {
      mmrec::integrate(backend, z(), h_prev(), gamma(), p_("W_g.weight").rows(),
                       p_("W_g.bias").vector(), gate_.rows(), h_new_.rows());
    }
  }

  const dense<T>& decay() const { return gamma_; }
  const dense<T>& update() const { return h_new_; }

  void compare_gradients(fixture_check& check, const std::string& call) {
    auto dz = dense<T>::unwritten(z_.shape()), dh_prev = dz;
    auto dcontext = dense<T>::zeros(z_.shape());
    dense<T> dgamma(check.data().array("R/gamma"));
    if (with_update_) {
      const dense<T> dh_new(check.data().array("R/h_new"));
      mmrec::integrate_backward(backend_, dh_new.rows(), z(), h_prev(), gamma(),
                                p_("W_g.weight").rows(), view<const T, 2>(gate_.rows()), dz.rows(),
                                dh_prev.rows(), dgamma.rows(), p_.gradient("W_g.weight").rows(),
                                p_.gradient("W_g.bias").vector());
    } else {
      dh_prev = dense<T>::zeros(z_.shape());
    }
    auto dfactor = dense<T>::unwritten(z_.shape()), dcontext_factor = dfactor;
    mmrec::combine_decay_backward(backend_, view<const T, 2>(dgamma.rows()), decay_.output(),
                                  context_factor(), dfactor.rows(),
                                  with_context_ ? dcontext_factor.rows() : view<T, 2>{});
    mmrec::decay_branch_backward<gelu>(backend_, view<const T, 2>(dfactor.rows()), z(),
                                       p_.branch("W_gamma"), decay_.saved(),
                                       p_.branch_gradient("W_gamma"), dz.rows(), with_update_);
    if (with_context_) {
      dcontext = dense<T>::unwritten(z_.shape());
      mmrec::decay_branch_backward<gelu>(backend_, view<const T, 2>(dcontext_factor.rows()),
                                         context(), p_.branch("W_context"), from_context_.saved(),
                                         p_.branch_gradient("W_context"), dcontext.rows(), false);
    }
    compare_gradient(check, call, "in/z", dz.values());
    compare_gradient(check, call, "in/h_prev", dh_prev.values());
    compare_gradient(check, call, "in/context", dcontext.values());
    p_.compare_gradients(check, call);
  }

 private:
  view<const T, 2> z() const { return z_.rows(); }
  view<const T, 2> h_prev() const { return h_prev_.rows(); }
  view<const T, 2> context() const { return context_.rows(); }
  view<const T, 2> gamma() const { return gamma_.rows(); }
  view<const T, 2> context_factor() const {
    return with_context_ ? from_context_.output() : view<const T, 2>{};
  }

  Backend backend_;
  bool with_context_, with_update_;
  parameter_set<T> p_;
  const dense<T> z_, h_prev_, context_;
  branch_memory<T> decay_, from_context_;
  dense<T> gamma_, gate_, h_new_;
};

// W.2 GELU(W.0 x + b) + b, and its backward.
template <class T>
struct perceptron {
  std::string stem;
  dense<T> preactivation{}, hidden{}, output{};

  template <class Backend>
  void forward(const Backend& backend, const parameter_set<T>& p, const dense<T>& x) {
    const auto w = p.branch(stem);
    const index_t rows = x.rows().extent(0);
    preactivation = hidden = dense<T>::unwritten({rows, w.w0.extent(0)});
    output = dense<T>::unwritten({rows, w.w2.extent(0)});
    mmrec::linear<gelu>(backend, x.rows(), w.w0, hidden.rows(),
                        {.bias = w.b0, .preactivation = preactivation.rows()});
    mmrec::linear(backend, hidden.rows(), w.w2, output.rows(), {.bias = w.b2});
  }
  template <class Backend>
  void backward(const Backend& backend, parameter_set<T>& p, const dense<T>& x,
                const dense<T>& doutput, const view<T, 2>& dx) {
    const auto w = p.branch(stem);
    const auto dw = p.branch_gradient(stem);
    auto dhidden = dense<T>::unwritten(hidden.shape());
    mmrec::linear_backward(backend, doutput.rows(), hidden.rows(), w.w2,
                           {.dx = dhidden.rows(), .dw = dw.w2, .dbias = dw.b2});
    mmrec::linear_backward<gelu>(
        backend, dhidden.rows(), x.rows(), w.w0,
        {.saved = preactivation.rows(), .dx = dx, .dw = dw.w0, .dbias = dw.b0});
  }
};

struct minus {
  template <class V>
  MMREC_HD V operator()(const V& a, const V& b) const {
    return a - b;
  }
};
struct opposite_slopes {
  double slope;
  template <class V>
  MMREC_HD std::array<V, 2> operator()(const V& v) const {
    const V d = mmrec::math::constant<V>(slope) * v;
    return {d, -d};
  }
};

}  // namespace

TEMPLATE_TEST_CASE("mdi: fixtures", "[fixtures][gradients]", reference_float, reference_double,
                   tested_float, tested_double) {
  using T = typename TestType::element_type;
  for (const fixture_file& file : fixture_files("mdi")) {
    fixture_check check(file);
    for (const std::string call : {"fwd/", "fwd_ctx/", "decay/", "decay_ctx/"}) {
      if (!check.expects(call + "gamma")) continue;
      CAPTURE(file.name(), call);
      const bool with_update = call.starts_with("fwd");
      mdi<T, typename TestType::backend_type> subject(TestType::backend(), check.data(),
                                                      call.find("_ctx") != call.npos, with_update);
      check.compare(call + "gamma", subject.decay().values());
      if (with_update) check.compare(call + "h_new", subject.update().values());
      if (has_gradients(check.data(), call)) subject.compare_gradients(check, call);
    }
  }
}

// e = MLP_error(stop_gradient(h_new)) - MLP_target(h_prev);  L_aux = mean(e^2).
TEMPLATE_TEST_CASE("mdi with the planning error: fixtures", "[fixtures][gradients]",
                   reference_float, reference_double, tested_float, tested_double) {
  using T = typename TestType::element_type;
  const auto backend = TestType::backend();
  for (const fixture_file& file : fixture_files("mdi_uboo")) {
    CAPTURE(file.name());
    fixture_check check(file);
    const npz& data = check.data();
    const mdi<T, typename TestType::backend_type> subject(backend, data, true, true);
    parameter_set<T> p(data);
    const dense<T> h_prev(data.array("in/h_prev"));
    perceptron<T> error{"W_planning_error"}, target{"W_planning_target"};
    error.forward(backend, p, subject.update());
    target.forward(backend, p, h_prev);

    auto e = dense<T>::unwritten(h_prev.shape()), de = e, dtarget = e, dh_prev = e;
    mmrec::transform(backend, minus{}, e.rows(), error.output.rows(), target.output.rows());
    double sum = 0;
    for (const T v : e.values()) sum += static_cast<double>(v) * static_cast<double>(v);
    const auto count = static_cast<double>(e.values().size());
    check.compare("gamma", subject.decay().values());
    check.compare("h_new", subject.update().values());
    check.compare("L_aux", std::vector<T>{static_cast<T>(sum / count)});

    const double slope = 2 * data.array("R/L_aux").as<double>().at(0) / count;
    mmrec::transform(backend, opposite_slopes{slope}, std::tuple{de.rows(), dtarget.rows()},
                     e.rows());
    error.backward(backend, p, subject.update(), de, {});  // stop_gradient: no dx
    target.backward(backend, p, h_prev, dtarget, dh_prev.rows());
    check.compare("grad/in/h_prev", dh_prev.values());
    p.compare_gradients(check, "");
    for (const std::string name : {"in/z", "in/context"}) CHECK(!check.expects("grad/" + name));
  }
}
