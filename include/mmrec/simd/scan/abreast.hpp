// SPDX-License-Identifier: Apache-2.0
// Channel-last sweep of few channels: a register holds one step of one sequence, as far as it has
// channels, and eight sequences go abreast: their chains cover the latency of one another, where a
// sequence alone would wait for every step. For steps of one operation, which have the same bits in
// every register; where a step takes more, sequences share registers (scan/quads.hpp).
#pragma once

#include <mmrec/simd/scan/streams.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <tuple>
#include <utility>

namespace mmrec::simd::detail {

/// Sequences that go abreast.
inline constexpr index_t abreast = 8;

/// Where a stream's sequences are, two times four: the processor adds one or two distances to a
/// pointer by itself, so that a pointer for each is not needed. No arrays: GCC would put them
/// together in vector registers. Of fewer than eight sequences some are there more than once.
template <class T>
struct eight_rows {
  T *low, *high;
  index_t one, three;  // bytes

  MMREC_INLINE eight_rows(T* first, index_t apart, index_t live)
      : low(first),
        high(first + (live > 4 ? live - 4 : 0) * apart),
        one(live > 2 ? apart * index_t{sizeof(T)} : 0),
        three((live > 3 ? 3 : live - 1) * apart * index_t{sizeof(T)}) {}
  static MMREC_INLINE index_t sequence(index_t live, index_t row) {
    const index_t first = row > 3 && live > 4 ? live - 4 : 0, in_four = row % 4;
    return first + (in_four < 3 ? (live > 2 ? in_four : 0) : live > 3 ? 3 : live - 1);
  }

  template <std::size_t Row>
  MMREC_INLINE T* at() const {
    const auto base = reinterpret_cast<std::uintptr_t>(Row < 4 ? low : high);
    const index_t bytes = Row % 4 == 3 ? three : static_cast<index_t>(Row % 4) * one;
    return reinterpret_cast<T*>(base + static_cast<std::uintptr_t>(bytes));
  }
  /// GCC may not make a pointer for each row.
  MMREC_INLINE void move(index_t step) {
    low += step, high += step;
    asm("" : "+r"(low), "+r"(high));
  }
};

/// States on their way to and from the registers of rows; apart, since most calls have none.
template <class V, class Arch, class Op, class Args>
__attribute__((noinline)) void given_states(const Op& op, const Args& args, index_t first,
                                            index_t live, std::array<V, Op::carries>* carry) {
  typename V::value_type state[lanes<V>] = {};
  for (index_t row = 0; row < abreast; ++row) {
    const index_t s = first + eight_rows<float>::sequence(live, row);
    for (index_t j = 0; j < args.channels(); ++j) state[j] = args.carry_in(s, j);
    carry[row] = op.load(V::load_unaligned(state));
  }
}
template <class V, class Arch, class Op, class Args>
__attribute__((noinline)) void give_states(const Op& op, const Args& args, index_t first,
                                           index_t live, const std::array<V, Op::carries>* carry) {
  typename V::value_type state[abreast][lanes<V>];
  for (index_t row = 0; row < abreast; ++row)
    op.store(carry[row]).store_unaligned(state[eight_rows<float>::sequence(live, row)]);
  for (index_t s = 0; s < live; ++s)
    write_state(state[s], args.carry_out, first + s, 0, args.channels());
}

/// `live` <= 8 sequences from `first` on. Quads: their channels are 16 bytes. Arch as in
/// grouped_rows.
template <bool Quads, class V, class Arch, class Op, class T, class State, std::size_t NI>
void sweep_abreast(const Op& op, const sweep_args<T, State, NI, 1, 0>& args, index_t first,
                   index_t live, bool late) {
  constexpr auto rows = static_cast<std::size_t>(abreast);
  const auto channels = static_cast<std::size_t>(args.channels());
  const index_t steps = args.in[0].extent(1), start = args.reverse ? steps - 1 : 0;
  const auto rows_of = [&](const auto& v) MMREC_LAMBDA_INLINE {
    return eight_rows(v.data_handle() + first * v.stride(0) + start * v.stride(1), v.stride(0),
                      live);
  };
  const auto walk = [&](const auto& v)
                        MMREC_LAMBDA_INLINE { return args.reverse ? -v.stride(1) : v.stride(1); };
  std::array<V, Op::carries> carry[rows];
  for (auto& c : carry) c = op.load(V(static_cast<State>(op.identity())));
  if (args.carry_in) [[unlikely]]
    given_states<V, Arch>(op, args, first, live, carry);

  [&]<std::size_t... K>(std::index_sequence<K...>) MMREC_LAMBDA_INLINE {
    std::array<V, Op::carries> c[rows];
    unroll<rows>([&](auto r) MMREC_LAMBDA_INLINE { c[r()] = carry[r()]; });
    std::tuple in{rows_of(args.in[K])...};
    auto out = rows_of(args.out[0].out);
    const std::array<index_t, NI> in_step{walk(args.in[K])...};
    const index_t out_step = walk(args.out[0].out);
    // Chosen without a branch: the stores take longer in any case.
    const auto is_late = V(static_cast<State>(late ? 1 : 0)) > V(State(0));
    index_t t = 0;
    if constexpr (Quads) {
      // Where steps lie next to each other two of them are written at once.
      if (!late && live == abreast && out_step == static_cast<index_t>(quad<T>)) {
        for (; t + 1 < steps; t += 2) {
          unroll<rows>([&](auto r) MMREC_LAMBDA_INLINE {
            V y[2];
            for (index_t i = 0; i < 2; ++i)
              y[i] =
                  op.step(c[r()], std::array<V, NI>{load_quad<V>(
                                      std::get<K>(in).template at<r()>() + i * in_step[K])...})[0];
            store_two_quads(out.template at<r()>(), y[0], y[1]);
          });
          (std::get<K>(in).move(2 * in_step[K]), ...);
          out.move(2 * out_step);
        }
      }
    }
    for (; t < steps; ++t) {
      // All elements of a step are read before its results, which may take their place, are
      // written: some sequences may be there more than once.
      V y[rows];
      unroll<rows>([&](auto r) MMREC_LAMBDA_INLINE {
        const auto load = [&](const T* p) MMREC_LAMBDA_INLINE {
          if constexpr (Quads)
            return load_quad<V>(p);
          else
            return load_lanes_n<V>(p, channels);
        };
        const std::array<V, NI> x{load(std::get<K>(in).template at<r()>())...};
        const V before = op.value(c[r()])[0];
        y[r()] = math::select(is_late, before, op.step(c[r()], x)[0]);
      });
      unroll<rows>([&](auto r) MMREC_LAMBDA_INLINE {
        if constexpr (Quads)
          store_quad<V, 0>(out.template at<r()>(), raw(y[r()]));
        else
          store_lanes_n(out.template at<r()>(), y[r()], channels);
      });
      (std::get<K>(in).move(in_step[K]), ...);
      out.move(out_step);
    }
    if (args.carry_out.out) [[unlikely]] {
      unroll<rows>([&](auto r) MMREC_LAMBDA_INLINE { carry[r()] = c[r()]; });
      give_states<V, Arch>(op, args, first, live, carry);
    }
  }(std::make_index_sequence<NI>{});
}

/// Shares out sequences of one length; false where there are too few for the threads to go abreast.
template <class V, class Row, class Arch, class Op, class T, class State, std::size_t NI>
MMREC_INLINE bool share_abreast(unsigned threads, const Op& op,
                                const sweep_args<T, State, NI, 1, 0>& args, bool late) {
  const index_t sequences = args.sequences();
  const index_t each = threads == 1 ? sequences : (sequences + threads - 1) / threads;
  if (each == 1) return false;
  const index_t together = std::min(abreast, each);
  const auto share = [&]<bool Quads, class Registers>() MMREC_LAMBDA_INLINE {
    const auto sweep_from = [&](index_t first) {
      sweep_abreast<Quads, Registers, Arch>(op, args, first, std::min(together, sequences - first),
                                            late);
    };
    if (sequences <= together)
      sweep_from(0);
    else
      parallel_for(threads, (sequences + together - 1) / together,
                   [&](index_t task) { sweep_from(task * together); });
    return true;
  };
  if constexpr (has_quads<Row, T>)
    if (args.channels() == static_cast<index_t>(quad<T>))
      return share.template operator()<true, Row>();
  return share.template operator()<false, V>();
}

}  // namespace mmrec::simd::detail
