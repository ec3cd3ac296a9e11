// SPDX-License-Identifier: Apache-2.0
// Scans and their gradients. A backward gets the output of its own forward, as its users call it.
#include "problem.hpp"

#include <mmrec/scan.hpp>

namespace bench::accuracy {
namespace {

/// a + b + a b: associative, with the identity 0.
struct compound {
  template <class V>
  V operator()(const V& a, const V& b) const {
    return a + b + a * b;
  }
};
struct compound_partials {
  template <class V>
  std::array<V, 2> operator()(const V& previous, const V& x) const {
    return {math::constant<V>(1) + x, math::constant<V>(1) + previous};
  }
};

/// The results of linear_scan_double_backward: v arrive at da and db, s is the reverse scan of dh.
std::array<exact::array, 3> double_backward(const exact::shape3& s, const given& va,
                                            const given& vb, const given& a, const exact::array& h,
                                            const exact::array& adjoint) {
  const auto before = [&](const exact::array& y, std::size_t i) { return exact::before(s, y, i); };
  const exact::array q = exact::scan(
      s, 0, [&](real state, std::size_t i) { return a[i] * state + va[i] * before(h, i) + vb[i]; });
  exact::array through(q.size());  // gradient that s has on h_t: of step t + 1
  for (std::size_t i = 0; i < q.size(); ++i)
    if (!exact::is_last(s, i)) {
      const std::size_t next = i + at(s.channel);
      through[i] = adjoint[next] * va[next];
    }
  const exact::array r = exact::reverse_scan(s, through, [&](std::size_t next) { return a[next]; });
  exact::array da(q.size());
  for (std::size_t i = 0; i < q.size(); ++i)
    da[i] = before(q, i) * adjoint[i] + r[i] * before(h, i);
  return {q, da, r};
}

template <class T>
void add_all(std::vector<problem>& problems, const sizes& sizes) {
  collection<T> all(problems);
  const exact::shape3 s{sizes.batch, sizes.time, sizes.channel};
  const std::vector<index_t> shape{s.batch, s.time, s.channel};
  const index_t n = s.size();
  const auto seen = [s](auto* p) {
    return view<std::remove_pointer_t<decltype(p)>, 3>{p, {s.batch, s.time, s.channel}};
  };
  const auto along = relative_to::array;
  const real none = -std::numeric_limits<real>::infinity();
  const given any = all.uniform(n, -1, 1), near_one = all.uniform(n, 0.98, 1.02),
              gate = all.uniform(n, 0.8, 1), log_gate = all.uniform(n, -0.2, 0),
              small = all.uniform(n, -0.02, 0.02), g = all.uniform(n, -1, 1),
              g2 = all.uniform(n, -1, 1);
  const exact::array arrived(g.begin(), g.end());
  const auto one = [](std::size_t) { return real(1); };
  const auto times = [](exact::array x, const auto& factor) {
    for (std::size_t i = 0; i < x.size(); ++i) x[i] *= factor(i);
    return x;
  };

  all.add("cumsum", along, {shape}, {any},
          exact::scan(s, 0, [&](real h, std::size_t i) { return h + any[i]; }),
          [&](const auto& on, const auto& x, T* y) { cumsum(on, seen(x[0].data()), seen(y)); });
  const exact::array sums = exact::reverse_scan(s, arrived, one);
  all.add("cumsum dx", along, {shape, shape}, {g, any}, sums,
          [&](const auto& on, const auto& x, T* d) {
            cumsum_backward(on, seen(x[0].data()), seen(d));
          });

  const exact::array product =
      exact::scan(s, 1, [&](real h, std::size_t i) { return h * near_one[i]; });
  all.add("cumprod", relative_to::element, {shape}, {near_one}, product,
          [&](const auto& on, const auto& x, T* y) { cumprod(on, seen(x[0].data()), seen(y)); });
  all.add("cumprod dx", along, {shape, shape}, {g, near_one},
          times(exact::reverse_scan(s, arrived, [&](std::size_t next) { return near_one[next]; }),
                [&](std::size_t i) { return exact::before(s, product, i, 1); }),
          [&](const auto& on, const auto& x, T* d) {
            auto y = spare<T>(n);
            cumprod(on, seen(x[1].data()), seen(y.data()));
            cumprod_backward(on, seen(x[0].data()), seen(x[1].data()), seen(y.data()), seen(d));
          });

  all.add(
      "log_cumprod", along, {shape}, {gate},
      exact::scan(s, 0, [&](real h, std::size_t i) { return h + std::log(real(gate[i])); }),
      [&](const auto& on, const auto& x, T* y) { log_cumprod(on, seen(x[0].data()), seen(y)); });
  all.add("log_cumprod dx", along, {shape, shape}, {g, gate},
          times(sums, [&](std::size_t i) { return 1 / real(gate[i]); }),
          [&](const auto& on, const auto& x, T* d) {
            log_cumprod_backward(on, seen(x[0].data()), seen(x[1].data()), seen(d));
          });

  const exact::array lse =
      exact::scan(s, none, [&](real h, std::size_t i) { return exact::log_add_exp(h, any[i]); });
  all.add("logcumsumexp", along, {shape}, {any}, lse, [&](const auto& on, const auto& x, T* y) {
    logcumsumexp(on, seen(x[0].data()), seen(y));
  });
  all.add(
      "logcumsumexp dx", along, {shape, shape}, {g, any},
      times(exact::reverse_scan(
                s, arrived,
                [&](std::size_t next) { return std::exp(lse[next - at(s.channel)] - lse[next]); }),
            [&](std::size_t i) { return std::exp(any[i] - lse[i]); }),
      [&](const auto& on, const auto& x, T* d) {
        auto y = spare<T>(n);
        logcumsumexp(on, seen(x[1].data()), seen(y.data()));
        logcumsumexp_backward(on, seen(x[0].data()), seen(x[1].data()), seen(y.data()), seen(d));
      });

  const exact::array h =
      exact::scan(s, 0, [&](real state, std::size_t i) { return gate[i] * state + any[i]; });
  const exact::array adjoint =
      exact::reverse_scan(s, arrived, [&](std::size_t next) { return gate[next]; });
  all.add("linear_scan", along, {shape, shape}, {gate, any}, h,
          [&](const auto& on, const auto& x, T* y) {
            linear_scan(on, seen(x[0].data()), seen(x[1].data()), seen(y));
          });
  const auto linear = [&](const std::string& name, const exact::array& expected, auto target) {
    all.add(name, along, {shape, shape, shape}, {g, gate, any}, expected,
            [&, target](const auto& on, const auto& x, T* d) {
              auto y = spare<T>(n);
              linear_scan(on, seen(x[1].data()), seen(x[2].data()), seen(y.data()));
              linear_scan_gradients<T, accumulator_t<T>> to;
              to.*target = seen(d);
              linear_scan_backward(on, seen(x[0].data()), seen(x[1].data()), seen(y.data()), to);
            });
  };
  using gradients = linear_scan_gradients<T, accumulator_t<T>>;
  linear("linear_scan da", times(adjoint, [&](std::size_t i) { return exact::before(s, h, i); }),
         &gradients::da);
  linear("linear_scan db", adjoint, &gradients::db);
  const auto twice = double_backward(s, g, g2, gate, h, adjoint);
  for (const std::size_t which : {0, 1, 2})
    all.add(std::array{"linear_scan ddh", "linear_scan dda", "linear_scan ddb"}[which], along,
            {shape, shape, shape, shape, shape}, {g, gate, any, g, g2}, twice[which],
            [&](const auto& on, const auto& x, T* d) {
              auto y = spare<T>(n), db = y, q = y;
              linear_scan(on, seen(x[1].data()), seen(x[2].data()), seen(y.data()));
              linear_scan_backward(on, seen(x[0].data()), seen(x[1].data()), seen(y.data()),
                                   gradients{.db = seen(db.data())});
              linear_scan_double_gradients<T, accumulator_t<T>> to;
              if (which == 1) to.da = seen(d);
              if (which == 2) to.db = seen(d);
              linear_scan_double_backward(on, seen(x[3].data()), seen(x[4].data()),
                                          seen(x[1].data()), seen(y.data()), seen(db.data()),
                                          seen(which == 0 ? d : q.data()), to);
            });

  const exact::array logs = exact::scan(s, none, [&](real state, std::size_t i) {
    return exact::log_add_exp(state + log_gate[i], any[i]);
  });
  const auto kept = [&](std::size_t i) {
    return exact::is_first(s, i) ? real(0)
                                 : std::exp(log_gate[i] + logs[i - at(s.channel)] - logs[i]);
  };
  const exact::array log_adjoint = exact::reverse_scan(s, arrived, kept);
  all.add("log_linear_scan", along, {shape, shape}, {log_gate, any}, logs,
          [&](const auto& on, const auto& x, T* y) {
            log_linear_scan(on, seen(x[0].data()), seen(x[1].data()), seen(y));
          });
  const auto log_linear = [&](const std::string& name, const exact::array& expected, auto target) {
    all.add(name, along, {shape, shape, shape}, {g, log_gate, any}, expected,
            [&, target](const auto& on, const auto& x, T* d) {
              auto y = spare<T>(n);
              log_linear_scan(on, seen(x[1].data()), seen(x[2].data()), seen(y.data()));
              gradients to;
              to.*target = seen(d);
              log_linear_scan_backward(on, seen(x[0].data()), seen(x[1].data()), seen(x[2].data()),
                                       seen(y.data()), to);
            });
  };
  log_linear("log_linear_scan dal", times(log_adjoint, kept), &gradients::da);
  log_linear("log_linear_scan dbe",
             times(log_adjoint, [&](std::size_t i) { return std::exp(any[i] - logs[i]); }),
             &gradients::db);

  const exact::array own = exact::scan(
      s, 0, [&](real state, std::size_t i) { return compound{}(state, real(small[i])); });
  all.add("inclusive_scan, a + b + ab", along, {shape}, {small}, own,
          [&](const auto& on, const auto& x, T* y) {
            inclusive_scan(on, seen(x[0].data()), seen(y), compound{}, 0);
          });
  all.add("inclusive_scan, a + b + ab, dx", along, {shape, shape}, {g, small},
          times(exact::reverse_scan(s, arrived, [&](std::size_t next) { return 1 + small[next]; }),
                [&](std::size_t i) { return 1 + exact::before(s, own, i); }),
          [&](const auto& on, const auto& x, T* d) {
            auto y = spare<T>(n);
            inclusive_scan(on, seen(x[1].data()), seen(y.data()), compound{}, 0);
            inclusive_scan_backward(on, seen(x[0].data()), seen(x[1].data()), seen(y.data()),
                                    seen(d), compound_partials{}, 0);
          });
}

}  // namespace

void add_scans(std::vector<problem>& all, const sizes& s) {
  add_all<float>(all, s);
  add_all<double>(all, s);
  add_all<Eigen::bfloat16>(all, s);  // binary16 is rounded in the same way; products have both
}

}  // namespace bench::accuracy
