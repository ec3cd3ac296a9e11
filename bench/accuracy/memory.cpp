// SPDX-License-Identifier: Apache-2.0
// Attention, the gated recurrence with both solvers, the decay and the hierarchy of the memory.
#include "problem.hpp"
#include "support/exact_memory.hpp"

#include <mmrec/attention.hpp>
#include <mmrec/decay.hpp>
#include <mmrec/integrate.hpp>
#include <mmrec/memory_state.hpp>
#include <mmrec/recurrence.hpp>

namespace bench::accuracy {
namespace {

using shapes = std::vector<std::vector<index_t>>;
constexpr auto along = relative_to::array;
constexpr index_t batch = 2;

template <class T>
view<T, 3> cube(T* p, index_t b, index_t t, index_t d) {
  return {p, {b, t, d}};
}

template <class T>
void add_attention(collection<T>& all, const sizes& s) {
  const index_t time = s.steps, n = s.width, slots = s.slots, heads = s.heads;
  const given g = all.uniform(batch * time * n, -1, 1), q = all.uniform(batch * time * n, -2, 2),
              k = all.uniform(batch * slots * n, -2, 2), v = all.uniform(batch * slots * n, -1, 1);
  const auto expected = exact::attention(g, q, k, v, batch, time, slots, n, heads);
  const std::vector<index_t> sequence{batch, time, n}, memory{batch, slots, n};
  for (const std::size_t which : {0, 1, 2, 3})
    all.add(std::array{"attention", "attention dq", "attention dk", "attention dv"}[which], along,
            {sequence, sequence, memory, memory}, {g, q, k, v}, expected[which],
            [&](const auto& on, const auto& a, T* y) {
              const auto query = cube(a[1].data(), batch, time, n),
                         key = cube(a[2].data(), batch, slots, n),
                         value = cube(a[3].data(), batch, slots, n);
              auto o = spare<T>(batch * time * n), p = spare<T>(batch * heads * time * slots);
              const view<T, 4> probabilities{p.data(), {batch, heads, time, slots}};
              attention(on, query, key, value, heads,
                        cube(which == 0 ? y : o.data(), batch, time, n),
                        {.probabilities = probabilities});
              if (which == 0) return;
              attention_gradients<T, T> to;
              if (which == 1) to.dq = cube(y, batch, time, n);
              if (which == 2) to.dk = cube(y, batch, slots, n);
              if (which == 3) to.dv = cube(y, batch, slots, n);
              attention_backward(on, cube(a[0].data(), batch, time, n), query, key, value,
                                 probabilities, heads, to);
            });
}

template <class T>
void add_recurrence(collection<T>& all, const sizes& s) {
  const index_t time = s.steps, d = s.width, n = batch * time * d;
  const double bound = 1 / std::sqrt(static_cast<double>(d));
  const given dh = all.uniform(n, -1, 1), z = all.uniform(n, -1, 1),
              gamma = all.uniform(n, 0.3, 0.7), block = all.uniform(d * d, -bound, bound),
              block_bias = all.uniform(d, -bound, bound),
              mix = all.uniform(2 * d * d, -bound, bound), mix_bias = all.uniform(d, -bound, bound),
              initial = all.uniform(batch * d, -1, 1);
  const exact::recurrence expected(dh, z, gamma, block, block_bias, mix, mix_bias, initial, batch,
                                   time, d, 0.1L);
  using gradients = recurrence_gradients<T>;
  const auto add = [&](const std::string& name, enum solver solver, const exact::array& result,
                       auto target) {
    const std::vector<index_t> tokens{batch, time, d};
    all.add(name, along, {tokens, tokens, tokens, {d, d}, {d}, {d, 2 * d}, {d}, {batch, d}},
            {dh, z, gamma, block, block_bias, mix, mix_bias, initial}, result,
            [&, target](const auto& on, const auto& a, T* y) {
              const auto tokens_of = [&](auto* p) { return cube(p, batch, time, d); };
              const recurrence_weights<T> w{matrix(a[3].data(), d, d),
                                            {a[4].data(), {d}},
                                            matrix(a[5].data(), d, 2 * d),
                                            {a[6].data(), {d}}};
              auto h = spare<T>(n), saved = spare<T>(2 * n);
              const view<T, 3> gates{saved.data(), {batch, time, 2 * d}};
              const view<const T, 2> start = matrix(a[7].data(), batch, d);
              recurrence(on, tokens_of(a[1].data()), tokens_of(a[2].data()), w, tokens_of(h.data()),
                         {.initial = start, .gates = gates, .form = {.solver = solver}});
              gradients to;
              to.gates = gates, to.initial = start, to.form.solver = solver;
              if (!target(to, y)) {
                std::copy(h.begin(), h.end(), y);
                return;
              }
              recurrence_backward(on, tokens_of(a[0].data()), tokens_of(a[1].data()),
                                  tokens_of(a[2].data()), tokens_of(h.data()), w, to);
            });
  };
  const auto to_h = [](gradients&, T*) { return false; };
  const auto to_dz = [=](gradients& to, T* y) { return to.dz = cube(y, batch, time, d), true; };
  add("recurrence", solver::sequential, expected.h, to_h);
  add("recurrence, parallel", solver::parallel, expected.h, to_h);
  add("recurrence dz", solver::sequential, expected.dz, to_dz);
  add("recurrence dz, parallel", solver::parallel, expected.dz, to_dz);
  add("recurrence dgamma", solver::sequential, expected.dgamma,
      [=](gradients& to, T* y) { return to.dgamma = cube(y, batch, time, d), true; });
  add("recurrence dblock", solver::sequential, expected.dblock,
      [=](gradients& to, T* y) { return to.dblock = matrix(y, d, d), true; });
  add("recurrence dblock_bias", solver::sequential, expected.dblock_bias,
      [=](gradients& to, T* y) { return to.dblock_bias = view<T, 1>(y, {d}), true; });
  add("recurrence dmix", solver::sequential, expected.dmix,
      [=](gradients& to, T* y) { return to.dmix = matrix(y, d, 2 * d), true; });
  add("recurrence dmix_bias", solver::sequential, expected.dmix_bias,
      [=](gradients& to, T* y) { return to.dmix_bias = view<T, 1>(y, {d}), true; });
  add("recurrence dinitial", solver::sequential, expected.dinitial,
      [=](gradients& to, T* y) { return to.dinitial = matrix(y, batch, d), true; });
}

/// gamma of MDI with a context, or of DPG; then dz, and the gradients of the weights of z.
template <class T, class Activation>
void add_decay(collection<T>& all, const sizes& s, const std::string& name) {
  constexpr bool mdi = std::same_as<Activation, activation::gelu>;
  const index_t n = s.steps, d = s.width, inner = d / 4;
  const double wide = 1 / std::sqrt(static_cast<double>(d)), narrow = 2 * wide;
  std::vector<given> x{all.uniform(n * d, -1, 1)};  // g, then x, w0, b0, w2, b2 of each factor
  shapes of{{n, d}};
  for (int factor = 0; factor < (mdi ? 2 : 1); ++factor) {
    for (const given& v : {all.uniform(n * d, -2, 2), all.uniform(inner * d, -wide, wide),
                           all.uniform(inner, -wide, wide), all.uniform(d * inner, -narrow, narrow),
                           all.uniform(d, -narrow, narrow)})
      x.push_back(v);
    of.insert(of.end(), {{n, d}, {inner, d}, {inner}, {d, inner}, {d}});
  }
  exact::perceptron own(x[1], x[2], x[3], x[4], x[5], mdi);
  exact::array gamma = own.factor, dfactor(x[0].begin(), x[0].end());
  if constexpr (mdi) {
    const exact::perceptron context(x[6], x[7], x[8], x[9], x[10], mdi);
    for (std::size_t i = 0; i < gamma.size(); ++i)
      gamma[i] *= context.factor[i], dfactor[i] *= context.factor[i];
  }
  own.backward(dfactor);
  for (const std::size_t which : {0, 1, 2, 3})
    all.add(name + std::array{"", " dz", " dw0", " dw2"}[which], along, of, x,
            which == 0 ? gamma : own.gradients[which - 1],
            [&](const auto& on, const auto& a, T* y) {
              std::vector<std::vector<T>> kept;  // what the two branches save
              const auto room = [&](index_t columns) {
                kept.push_back(spare<T>(n * columns));
                return matrix(kept.back().data(), n, columns);
              };
              kept.reserve(16);
              const auto weights = [&](std::size_t i) {
                return decay_branch_weights<const T>{matrix(a[i + 1].data(), inner, d),
                                                     {a[i + 2].data(), {inner}},
                                                     matrix(a[i + 3].data(), d, inner),
                                                     {a[i + 4].data(), {d}}};
              };
              const auto branch = [&](std::size_t i) {
                const decay_branch_saved<T> saved{room(inner), room(inner), room(d)};
                decay_branch<Activation>(on, view<const T, 2>(matrix(a[i].data(), n, d)),
                                         weights(i), saved);
                return saved;
              };
              const decay_branch_saved<T> saved = branch(1);
              const view<const T, 2> context =
                  mdi ? view<const T, 2>(branch(6).factor) : view<const T, 2>{};
              if (which == 0)
                return combine_decay(on, view<const T, 2>(saved.factor), context, matrix(y, n, d));
              const view<T, 2> dfactor_ = room(d);
              combine_decay_backward(on, view<const T, 2>(matrix(a[0].data(), n, d)),
                                     view<const T, 2>(saved.factor), context, dfactor_,
                                     mdi ? room(d) : view<T, 2>{});
              auto dw0 = spare<T>(inner * d), dw2 = dw0, db0 = spare<T>(inner), db2 = spare<T>(d),
                   dz = spare<T>(n * d);
              decay_branch_backward<Activation>(on, view<const T, 2>(dfactor_),
                                                view<const T, 2>(matrix(a[1].data(), n, d)),
                                                weights(1), saved,
                                                {matrix(which == 2 ? y : dw0.data(), inner, d),
                                                 {db0.data(), {inner}},
                                                 matrix(which == 3 ? y : dw2.data(), d, inner),
                                                 {db2.data(), {d}}},
                                                matrix(which == 1 ? y : dz.data(), n, d), false);
            });
}

template <class T>
void add_integrate(collection<T>& all, const sizes& s) {
  const index_t n = s.steps, d = s.width;
  const double bound = 1 / std::sqrt(2.0 * static_cast<double>(d));
  const given e = all.uniform(n * d, -1, 1), z = all.uniform(n * d, -1, 1),
              p = all.uniform(n * d, -1, 1), gamma = all.uniform(n * d, 0.1, 0.9),
              w = all.uniform(2 * d * d, -bound, bound), bias = all.uniform(d, -bound, bound);
  std::array<exact::array, 5> expected;  // h, dz, dp, dgamma, dw
  for (auto& a : expected) a.resize(at(n * d));
  expected[4].resize(w.size());
  for (std::size_t i = 0; i < at(n); ++i)
    for (std::size_t j = 0; j < at(d); ++j) {
      const std::size_t k = i * at(d) + j, row = j * 2 * at(d);
      real u = bias[j];
      for (std::size_t c = 0; c < at(d); ++c)
        u += real(w[row + c]) * z[i * at(d) + c] + real(w[row + at(d) + c]) * p[i * at(d) + c];
      const real g = exact::sigmoid(u);
      expected[0][k] = (1 - g) * p[k] + g * z[k] + real(gamma[k]) * p[k];
      const real du = e[k] * (real(z[k]) - p[k]) * g * (1 - g);
      expected[1][k] += e[k] * g;
      expected[2][k] += e[k] * (1 - g + real(gamma[k]));
      expected[3][k] = real(e[k]) * p[k];
      for (std::size_t c = 0; c < at(d); ++c) {
        expected[1][i * at(d) + c] += w[row + c] * du;
        expected[2][i * at(d) + c] += w[row + at(d) + c] * du;
        expected[4][row + c] += du * z[i * at(d) + c];
        expected[4][row + at(d) + c] += du * p[i * at(d) + c];
      }
    }
  const std::vector<index_t> rows{n, d};
  for (const std::size_t which : {0, 1, 2, 3, 4})
    all.add(std::array{"integrate", "integrate dz", "integrate dp", "integrate dgamma",
                       "integrate dw"}[which],
            along, {rows, rows, rows, rows, {d, 2 * d}, {d}}, {e, z, p, gamma, w, bias},
            expected[which], [&](const auto& on, const auto& a, T* y) {
              const auto seen = [&](const std::vector<T>& x) {
                return view<const T, 2>{x.data(), {n, d}};
              };
              const view<const T, 2> weights{a[4].data(), {d, 2 * d}};
              std::vector<std::vector<T>> other(5, spare<T>(n * d));
              other[4] = spare<T>(2 * d * d);
              auto gate = spare<T>(n * d), db = spare<T>(d);
              const auto to = [&](std::size_t i) {
                return matrix(which == i ? y : other[i].data(), n, d);
              };
              integrate(on, seen(a[1]), seen(a[2]), seen(a[3]), weights,
                        view<const T, 1>{a[5].data(), {d}}, matrix(gate.data(), n, d), to(0));
              if (which == 0) return;
              integrate_backward(on, seen(a[0]), seen(a[1]), seen(a[2]), seen(a[3]), weights,
                                 seen(gate), to(1), to(2), to(3),
                                 matrix(which == 4 ? y : other[4].data(), d, 2 * d),
                                 view<T, 1>{db.data(), {d}});
            });
}

template <class T>
void add_hds(collection<T>& all, const sizes& s) {
  const index_t slots = s.slots, top = hds_slots(slots)[2], d = s.width, window = slots / top;
  const given bank = all.uniform(batch * slots * d, -1, 1), g = all.uniform(batch * top * d, -1, 1);
  exact::array means(g.size()), gradient(bank.size());
  for (std::size_t i = 0; i < bank.size(); ++i) {
    const std::size_t slot = i / at(d), to = slot / at(window) * at(d) + i % at(d);
    means[to] += bank[i] / static_cast<real>(window);
    gradient[i] = g[to] / static_cast<real>(window);
  }
  all.add("hds_top", along, {{batch, slots, d}}, {bank}, means,
          [&](const auto& on, const auto& a, T* y) {
            hds_top(on, view<const T, 3>(cube(a[0].data(), batch, slots, d)),
                    cube(y, batch, top, d));
          });
  all.add("hds_top dslots", along, {{batch, top, d}, {batch, slots, d}}, {g, bank}, gradient,
          [&](const auto& on, const auto& a, T* y) {
            hds_top_backward(on, view<const T, 3>(cube(a[0].data(), batch, top, d)),
                             cube(y, batch, slots, d));
          });
}

template <class T>
void add_all(std::vector<problem>& problems, const sizes& s) {
  collection<T> all(problems);
  add_attention(all, s);
  add_recurrence(all, s);
  add_decay<T, activation::gelu>(all, s, "MDI gamma");
  add_decay<T, activation::relu>(all, s, "DPG gamma");
  add_integrate(all, s);
  add_hds(all, s);
}

}  // namespace

void add_memory(std::vector<problem>& all, const sizes& s) {
  add_all<float>(all, s);
  add_all<double>(all, s);
}

}  // namespace bench::accuracy
