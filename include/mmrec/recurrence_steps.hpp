// SPDX-License-Identifier: Apache-2.0
// What the forward and the adjoint solvers of recurrence.hpp share, and the walk through time one
// step after the other.
//
// All of them work on arrays of the arithmetic type. A step needs the products of p with W_b and
// with the p half of W_m: one product with the two side by side, (D, 2D). The adjoint step needs
// their transposes: one product with the two on top of each other, (2D, D).
#pragma once

#include <mmrec/loops.hpp>
#include <mmrec/recurrence_types.hpp>
#include <mmrec/scan.hpp>

#include <limits>

namespace mmrec::detail {

/// [left right] or, Axis 0, left above right; as an operand of a product.
template <std::size_t Axis, class Left, class Right>
struct joined {
  Left left;
  Right right;
  index_t extent(std::size_t i) const { return left.extent(i) + (i == Axis ? right.extent(i) : 0); }
  index_t stride(std::size_t i) const
    requires requires(const Left& l) { l.stride(i); }
  {
    // Contiguous access along the axis of joining would cross the seam.
    return i == Axis ? 0 : left.stride(i);
  }
  template <class F>
  auto pick(index_t i, index_t j, const F& f) const {
    const index_t at = Axis == 0 ? i : j, seam = left.extent(Axis);
    if (at < seam) return f(left, i, j);
    return Axis == 0 ? f(right, i - seam, j) : f(right, i, j - seam);
  }
  template <class V>
  V load_row(index_t i, index_t j) const {
    return pick(i, j,
                [](const auto& m, index_t r, index_t c) { return m.template load_row<V>(r, c); });
  }
  template <class V>
  V load_column(index_t i, index_t j) const {
    return pick(
        i, j, [](const auto& m, index_t r, index_t c) { return m.template load_column<V>(r, c); });
  }
  template <class Acc>
  Acc get(index_t i, index_t j) const {
    return pick(i, j,
                [](const auto& m, index_t r, index_t c) { return m.template get<Acc>(r, c); });
  }
  auto at(index_t i, index_t j) const
    requires requires(const Left& l) { l.at(0, 0); }
  {
    return pick(i, j, [](const auto& m, index_t r, index_t c) { return m.at(r, c); });
  }
};

/// The p half of W_m; without a mix gate its place is empty.
template <element T>
view<const T, 2> mix_of_state(const recurrence_weights<T>& w, const recurrence_form& form) {
  const index_t d = w.block.extent(0);
  return form.mix_gate ? w.mix.slice(1, d, d)
                       : view<const T, 2>{w.block.data_handle(), {0, d}, {d, 1}};
}

template <bool Transposed, class B, element T>
auto state_weights(const B& backend, const recurrence_weights<T>& w, const recurrence_form& form) {
  const auto left = as_operand<Transposed>(backend, w.block);
  const auto right = as_operand<Transposed>(backend, mix_of_state(w, form));
  return joined<Transposed ? 1 : 0, decltype(left), decltype(right)>{left, right};
}

/// One unit of one step: the gates from their pre-activations, and the new state.
template <class V>
struct gate_step {
  V s, m, h;
  MMREC_HD gate_step(const V& u_block, const V& u_mix, bool mix_gate, const V& z, const V& gamma,
                     const V& p, const V& mix)
      : gate_step(math::sigmoid(u_block), mix_gate ? math::sigmoid(u_mix) : math::constant<V>(1), z,
                  gamma, p, mix) {}
  MMREC_HD gate_step(const V& s_, const V& m_, const V& z, const V& gamma, const V& p, const V& mix)
      : s(s_),
        m(m_),
        h(z * (s + mix * m) + p * (gamma + mix * (gamma + math::constant<V>(1) - m))) {}
};

/// The adjoint of one unit at one step: what e_t sends through the two gates, and straight to p.
template <class V>
struct adjoint_step {
  V a_block, a_mix, direct;  // direct: without the (1 + mix) gamma part
  MMREC_HD adjoint_step(const V& e, const V& z, const V& p, const V& s, const V& m, const V& mix)
      : a_block(e * z * s * (math::constant<V>(1) - s)),
        a_mix(mix * e * (z - p) * m * (math::constant<V>(1) - m)),
        direct(mix * (math::constant<V>(1) - m) * e) {}
};

/// mixed[b, t] = W_m[:, :D] z + b_m for every token: the part of the mix gate that does not wait
/// for h.
template <class B, element T, class Acc>
void mix_of_input(const B& backend, const view<const T, 3>& z, const recurrence_weights<T>& w,
                  const recurrence_form& form, Acc* mixed) {
  using V = lanes_of<B, Acc>;
  if (!form.mix_gate) return;
  const index_t d = z.extent(2);
  multiply<Acc>(backend, as_operand(backend, z), as_operand<true>(backend, w.mix.slice(1, 0, d)),
                [&](index_t i, index_t j, const V& v, std::size_t live) {
                  store_unit(mixed + i * d + j,
                             v + load_unit<V>(w.mix_bias.data_handle() + j, live), live);
                });
}

/// Steps [from, from + steps) of every sequence. `state` (batch, D) is h before the first and after
/// the last.
template <class B, element T, class Acc>
void solve_steps(const B& backend, const view<const T, 3>& z, const view<const T, 3>& gamma,
                 const recurrence_weights<T>& w, const recurrence_form& form, const Acc* mixed,
                 index_t from, index_t steps, Acc* state, const view<T, 3>& h,
                 const view<T, 3>& gates) {
  using V = lanes_of<B, Acc>;
  const index_t batch = z.extent(0), d = z.extent(2), width = form.mix_gate ? 2 * d : d;
  if (batch == 0 || d == 0 || steps == 0) return;
  const V mix = math::constant<V>(form.mix);

  // u (rows, width) holds the products of rows [row, row + rows) with the weights.
  const auto finish = [&](index_t t, index_t row, index_t rows, const Acc* u) {
    for (index_t b = row; b < row + rows; ++b) {
      const T *zt = &z(b, t, 0), *gt = &gamma(b, t, 0);
      const Acc *ub = u + (b - row) * width, *mt = mixed + (b * z.extent(1) + t) * d;
      Acc* p = state + b * d;
      T *ht = &h(b, t, 0), *saved = gates ? &gates(b, t, 0) : nullptr;
      for_units<V>(d, [&](index_t j, std::size_t live) {
        const V u_block =
            load_unit<V>(ub + j, live) + load_unit<V>(w.block_bias.data_handle() + j, live);
        const V u_mix =
            form.mix_gate ? load_unit<V>(ub + d + j, live) + load_unit<V>(mt + j, live) : u_block;
        const gate_step<V> step(u_block, u_mix, form.mix_gate, load_unit<V>(zt + j, live),
                                load_unit<V>(gt + j, live), load_unit<V>(p + j, live), mix);
        store_unit(p + j, step.h, live);
        store_unit(ht + j, step.h, live);
        if (saved) {
          store_unit(saved + j, step.s, live);
          store_unit(saved + d + j, step.m, live);
        }
      });
    }
  };
  const auto ask_for = [&](index_t t, index_t row, index_t rows) {
    for (index_t b = row; b < row + rows; ++b) {
      ask_for_row(&z(b, t, 0), d);
      ask_for_row(&gamma(b, t, 0), d);
      if (form.mix_gate) ask_for_row(mixed + (b * z.extent(1) + t) * d, d);
      ask_for_row(&h(b, t, 0), d);
      if (gates) ask_for_row(&gates(b, t, 0), 2 * d);
    }
  };
  const auto into = [width](Acc* u, index_t row) {
    return [=](index_t i, index_t j, const V& v, std::size_t live) {
      store_unit(u + (i - row) * width + j, v, live);
    };
  };
  const view<const Acc, 2> p{state, {batch, d}};
  auto* memory = scratch_of(backend);

  if (steps == 1) {  // a token at a time: packing the weights would cost more than the product
    scratch<Acc> u(memory, static_cast<std::size_t>(batch * width));
    multiply<Acc>(backend, as_operand(backend, p), state_weights<true>(backend, w, form),
                  into(u.data(), 0));
    finish(from, 0, batch, u.data());
    return;
  }
  product<B, Acc> weights(backend, d, width);
  weights.pack(state_weights<true>(backend, w, form));
  const index_t groups = std::min<index_t>(workers(backend), batch),
                each = (batch + groups - 1) / groups;
  const std::size_t work_size = weights.workspace(),
                    u_size = static_cast<std::size_t>(each * width);
  scratch<Acc> space(memory, static_cast<std::size_t>(groups) * (work_size + u_size));
  for_each_row(backend, groups, each * steps * width * d, [&](index_t group) {
    const index_t row = group * each, rows = std::min(each, batch - row);
    Acc* work = space.data() + static_cast<std::size_t>(group) * (work_size + u_size);
    Acc* u = work + work_size;
    for (index_t t = from; t < from + steps; ++t) {
      if (rows <= 0) break;
      ask_for(t, row, rows);
      weights.apply(as_operand(backend, p), row, rows, work, into(u, row));
      finish(t, row, rows, u);
    }
  });
}

template <class Acc>
double solver_tolerance(const recurrence_form& form) {
  return form.tolerance > 0 ? form.tolerance
                            : 4.0 * static_cast<double>(std::numeric_limits<Acc>::epsilon());
}

/// Has the sweep `now` moved from `before` by more than the tolerance? NaN has not converged.
template <class B, class Acc>
bool converged(const B& backend, const Acc* now, const Acc* before, index_t rows, index_t n,
               double tolerance) {
  using V = lanes_of<B, Acc>;
  scratch<Acc> worst(scratch_of(backend), static_cast<std::size_t>(2 * rows));
  for_each_row(backend, rows, 2 * n, [&](index_t i) {
    V change = math::constant<V>(0), size = math::constant<V>(0);
    for_units<V>(n, [&](index_t j, std::size_t live) {
      const V a = load_unit<V>(now + i * n + j, live), b = load_unit<V>(before + i * n + j, live);
      change = math::maximum(change, math::abs(a - b));
      size = math::maximum(size, math::abs(a));
    });
    Acc c(0), s(0);
    Acc lanes[2][static_cast<std::size_t>(lane_traits<V>::count)];
    lane_traits<V>::store(lanes[0], change, static_cast<std::size_t>(lane_traits<V>::count));
    lane_traits<V>::store(lanes[1], size, static_cast<std::size_t>(lane_traits<V>::count));
    for (std::size_t k = 0; k < static_cast<std::size_t>(lane_traits<V>::count); ++k)
      c = math::maximum(c, lanes[0][k]), s = math::maximum(s, lanes[1][k]);
    worst[static_cast<std::size_t>(2 * i)] = c;
    worst[static_cast<std::size_t>(2 * i + 1)] = s;
  });
  Acc change(0), size(0);
  for (index_t i = 0; i < rows; ++i) {
    change = math::maximum(change, worst[static_cast<std::size_t>(2 * i)]);
    size = math::maximum(size, worst[static_cast<std::size_t>(2 * i + 1)]);
  }
  return static_cast<double>(change) <= tolerance * static_cast<double>(size);
}

}  // namespace mmrec::detail
