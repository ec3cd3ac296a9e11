// SPDX-License-Identifier: Apache-2.0
// The gradient of linear_scan's gradient, for losses that contain gradients: two more scans, exact
// where those are. Shapes, types and errors as in scan.hpp, which includes this file.
//
//   linear_scan_double_backward(backend::simd{}, va, vb, a, h, db, ddh, {.da = qa, .db = qb});
#pragma once

#include <mmrec/scan_backward.hpp>

namespace mmrec {

/// The gradient of linear_scan_backward (inclusive, gates as values). Given va, vb (and v0), the
/// gradients that arrived at its results da, db (and dinitial), the gradients of its own inputs:
/// of dh (`ddh`), of a (`da`), of b through h (`db`), of the initial state and of dfinal. `s` is
/// the db that linear_scan_backward wrote.
template <element T, class State>
struct linear_scan_double_gradients {
  view<T, 3> da{};
  view<T, 3> db{};
  bool accumulate = false;          ///< applies to da, db and dinitial
  view<const State, 2> initial{};   ///< as given to the forward call
  view<const State, 2> vinitial{};  ///< gradient that arrived at dinitial
  view<State, 2> dinitial{};
  view<State, 2> ddfinal{};
  std::span<const index_t> offsets{};
};

template <class Acc = void, backend_tag B, readable_array<3> VA, readable_array<3> VB,
          readable_array<3> A, readable_array<3> H, readable_array<3> S, writable_array<3> Q>
void linear_scan_double_backward(
    const B& backend, const VA& va, const VB& vb, const A& a, const H& h, const S& s, const Q& ddh,
    const linear_scan_double_gradients<element_of<Q>, detail::state_t<Acc, element_of<Q>>>&
        gradients) {
  using T = element_of<Q>;
  using State = detail::state_t<Acc, T>;
  detail::require_one_type<element_of<VA>, element_of<VB>, element_of<A>, element_of<H>,
                           element_of<S>, T>();
  require_built<B>();
  const char* function = "linear_scan_double_backward";
  const auto q = as_view(ddh);
  const std::array in{detail::read(a), detail::read(va), detail::read(vb), detail::read(h),
                      detail::read(s)};
  const std::array names{"a", "va", "vb", "h", "s"};
  for (std::size_t i = 0; i < in.size(); ++i) {
    check_view(function, names[i], in[i], in[0].extents());
    check_disjoint(function, "ddh", q, names[i], in[i]);
  }
  check_view(function, "ddh", q, in[0].extents());
  check_distinct(function, "ddh", q);
  check_offsets(function, gradients.offsets, q.extent(0), q.extent(1));
  const index_t sequences =
      gradients.offsets.empty() ? q.extent(0) : static_cast<index_t>(gradients.offsets.size()) - 1;
  const std::array<index_t, 2> state{sequences, q.extent(2)};
  check_optional(function, "initial", gradients.initial, state);
  check_optional(function, "vinitial", gradients.vinitial, state);
  check_optional(function, "dinitial", gradients.dinitial, state);
  check_optional(function, "ddfinal", gradients.ddfinal, state);
  const std::array out{gradients.da, gradients.db};
  const std::array out_names{"da", "db"};
  for (std::size_t k = 0; k < out.size(); ++k) {
    check_optional(function, out_names[k], out[k], q.extents());
    check_distinct(function, out_names[k], out[k]);
    check_disjoint(function, out_names[k], out[k], "ddh", q);
    for (std::size_t i = 0; i < in.size(); ++i)
      check_disjoint(function, out_names[k], out[k], names[i], in[i]);
  }
  check_disjoint(function, "db", out[1], "da", out[0]);
  const std::array<view<const State, 2>, 4> states{gradients.initial, gradients.vinitial,
                                                   gradients.dinitial, gradients.ddfinal};
  const std::array state_names{"initial", "vinitial", "dinitial", "ddfinal"};
  for (std::size_t i = 0; i < states.size(); ++i) {
    check_disjoint(function, "ddh", q, state_names[i], states[i]);
    for (std::size_t k = 0; k < out.size(); ++k)
      check_disjoint(function, out_names[k], out[k], state_names[i], states[i]);
    if (i < 2) continue;  // what follows is for results
    check_distinct(function, state_names[i], states[i]);
    for (std::size_t k = 0; k < in.size(); ++k)
      check_disjoint(function, state_names[i], states[i], names[k], in[k]);
    for (std::size_t k = 0; k < i; ++k)
      check_disjoint(function, state_names[i], states[i], state_names[k], states[k]);
  }

  sweep_args<T, State, 4, 1, 1> up;  // forwards in time
  up.in = {in[0], in[1], in[2], in[3]};
  up.out[0].out = q;
  up.carry_in = gradients.vinitial;
  up.carry_out.out = gradients.ddfinal;
  up.edge = {gradients.initial};
  up.offsets = gradients.offsets;
  up.function = function;
  sweep(backend, scan_ops::linear_double_forward{}, up);

  sweep_args<T, State, 5, 2, 2> down;
  down.in = {in[0], in[1], in[4], view<const T, 3>(q), in[3]};
  for (std::size_t k = 0; k < out.size(); ++k) down.out[k] = {out[k], gradients.accumulate};
  down.carry_out = {gradients.dinitial, gradients.accumulate};
  down.edge = {gradients.vinitial, gradients.initial};
  down.offsets = gradients.offsets;
  down.reverse = true;
  down.function = function;
  sweep(backend, scan_ops::linear_double_reverse{}, down);
}

}  // namespace mmrec
