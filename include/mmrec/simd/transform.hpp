// SPDX-License-Identifier: Apache-2.0
// Vector transform: axes are put in the order of the first output's strides and merged where every
// operand allows; the innermost one is walked in batches. Where all its strides are 1 (or 0:
// broadcast) lanes are loaded and stored whole, from the first output's alignment on; other strides
// take and put them one by one, so that a value does not depend on the layout. Nothing in the loop
// waits for the batch before: the processor overlaps as many as its window holds. Long rows are cut
// into pieces for the threads. Budget: each operand once.
#pragma once

#include <mmrec/simd/lanes.hpp>
#include <mmrec/simd/lanes/strided.hpp>
#include <mmrec/simd/parallel.hpp>
#include <mmrec/transform.hpp>

namespace mmrec::simd {

struct transform_tuning {
  static constexpr index_t serial_elements = 1 << 14;
  static constexpr index_t piece = 1 << 13;       // elements of one task
  static constexpr index_t aligned_batches = 32;  // a row of as many is worth a partial first batch
};

namespace detail {

/// f over one row of operands: the outputs, then the inputs, with their steps.
template <class V, class F, class Out, class In, class Outs, class Ins>
struct transform_row;
template <class V, class F, class... Out, class... In, std::size_t... O, std::size_t... I>
struct transform_row<V, F, std::tuple<Out...>, std::tuple<In...>, std::index_sequence<O...>,
                     std::index_sequence<I...>> {
  static constexpr index_t w = static_cast<index_t>(lanes<V>);
  static constexpr std::size_t outs = sizeof...(O), operands = outs + sizeof...(I);
  const F& f;
  std::tuple<Out*...> out;
  std::tuple<const In*...> in;
  std::array<index_t, operands> step;

  /// The batch of n <= W elements from i on, whatever the steps.
  __attribute__((noinline)) void any(index_t i, index_t n) const {
    const auto count = static_cast<std::size_t>(n);
    const auto r = mmrec::detail::as_results(
        f(take<V>(std::get<I>(in) + i * step[outs + I], step[outs + I], count)...));
    (put(std::get<O>(out) + i * step[O], step[O], r[O], count), ...);
  }
  template <bool Broadcasts>
  index_t whole_batches(index_t i, index_t to) const {
    const std::array<V, sizeof...(I) + 1> same{
        V(step[outs + I] == 0 && Broadcasts ? load_element<typename V::value_type>(std::get<I>(in))
                                            : typename V::value_type(0))...};
    const auto load = [&](const auto* p, index_t stride, const V& constant) MMREC_LAMBDA_INLINE {
      return Broadcasts && stride == 0 ? constant : load_lanes<V>(p);
    };
    for (; i + w <= to; i += w) {
      const auto r = mmrec::detail::as_results(f(load(
          std::get<I>(in) + (Broadcasts ? i * step[outs + I] : i), step[outs + I], same[I])...));
      (store_lanes(std::get<O>(out) + i, r[O]), ...);
    }
    return i;
  }
  void operator()(index_t from, index_t to) const {
    bool whole = true, broadcasts = false;
    for (std::size_t k = 0; k < operands; ++k) {
      whole &= step[k] == 1 || (k >= outs && step[k] == 0);
      broadcasts |= step[k] == 0;
    }
    index_t i = from;
    if (whole) {
      using first = std::remove_pointer_t<std::tuple_element_t<0, std::tuple<Out*...>>>;
      const auto past = static_cast<index_t>(
          reinterpret_cast<std::uintptr_t>(std::get<0>(out) + i) / sizeof(first) % lanes<V>);
      if (past != 0 && to - i >= transform_tuning::aligned_batches * w) {
        any(i, w - past);
        i += w - past;
      }
      i = broadcasts ? whole_batches<true>(i, to) : whole_batches<false>(i, to);
    }
    for (; i < to; i += w) any(i, std::min(w, to - i));
  }
};

/// Axes in the order of the strides of operand 0, the smallest last.
template <std::size_t Rank, std::size_t N>
void order_axes(mmrec::detail::loop_nest<Rank, N>& nest) {
  const auto length = [&](std::size_t axis) {
    return nest.extents[axis] == 1 ? index_t{0} : std::abs(nest.strides[0][axis]);
  };
  for (std::size_t i = 1; i < Rank; ++i)
    for (std::size_t j = i; j > 0 && length(j - 1) < length(j); --j) {
      std::swap(nest.extents[j - 1], nest.extents[j]);
      for (auto& s : nest.strides) std::swap(s[j - 1], s[j]);
    }
}

}  // namespace detail
}  // namespace mmrec::simd

namespace mmrec {

template <class Arch, class Functor, class... Out, class... In>
void transform_kernel(const backend::simd_for<Arch>& backend, const Functor& functor,
                      const std::tuple<Out...>& outputs, const std::tuple<In...>& inputs) {
  const auto& f = detail::prepared(functor);
  using F = std::remove_cvref_t<decltype(f)>;
  using Acc = accumulator_t<typename std::tuple_element_t<0, std::tuple<Out...>>::value_type>;
  constexpr std::size_t rank = std::tuple_element_t<0, std::tuple<Out...>>::rank();
  constexpr std::size_t outs = sizeof...(Out), ins = sizeof...(In);
  detail::loop_nest<rank, outs + ins> nest;
  nest.extents = std::get<0>(outputs).extents();
  {
    std::size_t k = 0;
    std::apply([&](const auto&... v) { ((nest.strides[k++] = v.strides()), ...); }, outputs);
    std::apply([&](const auto&... v) { ((nest.strides[k++] = v.strides()), ...); }, inputs);
  }
  simd::detail::order_axes(nest);
  nest.merge();
  const index_t inner = nest.inner(), rows = nest.rows();

  // Elements [from, to) of one row.
  const auto walk = [&](index_t row, index_t from, index_t to) {
    [&]<std::size_t... O, std::size_t... I>(std::index_sequence<O...> o,
                                            std::index_sequence<I...> i) {
      const auto step = [&](std::size_t k) {
        return inner == 1 ? index_t{1} : nest.strides[k][nest.rank - 1];
      };
      simd::detail::transform_row<
          simd::batch<Acc, Arch>, F, std::tuple<typename Out::element_type...>,
          std::tuple<std::remove_const_t<typename In::element_type>...>, decltype(o), decltype(i)>{
          f,
          {(std::get<O>(outputs).data_handle() + nest.offset(O, row))...},
          {(std::get<I>(inputs).data_handle() + nest.offset(outs + I, row))...},
          {step(O)..., step(outs + I)...}}(from, to);
    }(std::make_index_sequence<outs>{}, std::make_index_sequence<ins>{});
  };

  constexpr index_t piece = simd::transform_tuning::piece;
  const unsigned threads = rows * inner < simd::transform_tuning::serial_elements
                               ? 1
                               : simd::thread_count(backend.threads);
  if (inner >= piece || rows == 1) {
    const index_t pieces = (inner + piece - 1) / piece;
    simd::parallel_for_alike(threads, rows * pieces, [&](index_t task) {
      const index_t from = task % pieces * piece;
      walk(task / pieces, from, std::min(inner, from + piece));
    });
  } else {
    const index_t group = std::max<index_t>(1, piece / inner), tasks = (rows + group - 1) / group;
    simd::parallel_for_alike(threads, tasks, [&](index_t task) {
      for (index_t row = task * group; row < std::min(rows, (task + 1) * group); ++row)
        walk(row, 0, inner);
    });
  }
}

}  // namespace mmrec
