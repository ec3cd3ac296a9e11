// SPDX-License-Identifier: Apache-2.0
// Steps of rows in tiles that are transposed in registers and back: where time has unit stride and
// rows are the same distance apart. Budget of sixteen rows in float: 46 cycles for 8 steps on Zen
// 4, where their products wait 24 and the shuffles take 28; a copy in the second level takes 33.
#pragma once

#include <mmrec/simd/scan/grouped_rows.hpp>

namespace mmrec::simd::detail {

/// `steps` steps, whole tiles of Held, of Parts registers from the one called `part` on: every
/// stream walks in Direction and is overwritten, and rows are `distance` elements apart. Eight rows
/// have the steps of a tile at once, which may be a whole line; sixteen have a quad at a time, and
/// the next one is read before: the processor does not see far past operations that wait for one
/// another.
template <int Direction, std::size_t Held, std::size_t Parts, class V, class Op, class T,
          class State, std::size_t NI, std::size_t NO, std::size_t NS, class Arch>
void sweep_tiles(const Op& op, grouped_rows<V, Op, T, State, NI, NO, NS, Arch>& rows,
                 std::size_t part, index_t distance, index_t t, index_t steps, const storing& how) {
  using group = grouped_rows<V, Op, T, State, NI, NO, NS, Arch>;
  constexpr std::size_t eight = group::eight, line = group::line;
  // Where the rows of all parts are; the group's first one is at p.
  const auto even = [&]<class P>(P* p) MMREC_LAMBDA_INLINE {
    std::array<even_rows<P, lanes<V>>, Parts> result;
    for (std::size_t i = 0; i < Parts; ++i)
      result[i] = {p, distance, rows.row(), (part + i) * lanes<V>};
    return result;
  };
  constexpr std::size_t block = Parts > eight && has_quads<V, T> ? quad<T> : Held;
  constexpr bool ahead = block < Held;
  // From the end of them in memory where Direction goes down.
  constexpr index_t back = Direction < 0 ? Held - 1 : 0, block_back = Direction < 0 ? block - 1 : 0;
  std::array<std::array<V, Op::carries>, Parts> carry;
  for (std::size_t p = 0; p < Parts; ++p) carry[p] = rows.carry[part + p];
  std::array<std::array<even_rows<const T, lanes<V>>, Parts>, NI> in;
  std::array<std::array<even_rows<T, lanes<V>>, Parts>, NO> out{};
  for (std::size_t k = 0; k < NI; ++k) in[k] = even(rows.at.in[k] + Direction * t - block_back);
  for (std::size_t k = 0; k < NO; ++k)
    if (!Op::optional_outputs || rows.at.out[k])
      out[k] = even(rows.at.out[k] + Direction * t - back);
  const row_distances apart(rows.row(), distance * index_t{sizeof(T)});
  // Unrolled, or the registers would be arrays in memory.
  using registers = std::array<std::array<std::array<V, block>, Parts>, NI>;
  const auto load = [&](registers& x) MMREC_LAMBDA_INLINE {
    unroll<NI * Parts>([&](auto i) MMREC_LAMBDA_INLINE {
      constexpr std::size_t k = i / Parts, p = i % Parts;
      // A shifted stream and the others are never aligned together.
      load_transposed<NS == 0>(x[k][p], in[k][p].at(apart), 0);
      // One stream after the other: lines of all of them would not find room in one set.
      if constexpr (!ahead) asm volatile("" ::: "memory");
    });
  };
  const auto move = [&](index_t by) MMREC_LAMBDA_INLINE {
    unroll<NI * Parts>([&](auto i) MMREC_LAMBDA_INLINE { in[i / Parts][i % Parts].move(by); });
  };
  registers x[2];
  if constexpr (ahead) load(x[0]);
  for (; steps > 0; steps -= Held) {
    std::array<V, Held> y[NO][Parts];
    unroll<Held / block>([&](auto b) MMREC_LAMBDA_INLINE {
      constexpr std::size_t first = b * block;
      if constexpr (!ahead) load(x[0]);
      // The first block of the next tile; after the last one, of this tile once more.
      const bool on = !ahead || first + block < Held || steps > index_t{Held};
      move(on ? Direction * index_t{block} : Direction * (index_t{block} - index_t{Held}));
      if constexpr (ahead) load(x[(b + 1) % 2]);
      // choose(the results of a step, the state before it)
      const auto walk = [&](const auto& choose) MMREC_LAMBDA_INLINE {
        unroll<block * Parts>([&](auto i) MMREC_LAMBDA_INLINE {
          constexpr std::size_t p = i % Parts, n = i / Parts;
          constexpr std::size_t at = Direction < 0 ? block - 1 - n : n;
          constexpr std::size_t to = Direction < 0 ? Held - 1 - first - n : first + n;
          std::array<V, NI> now;
          for (std::size_t k = 0; k < NI; ++k) now[k] = x[b % 2][k][p][at];
          const auto before = carry[p];
          const auto result = choose(op.step(carry[p], now), before);
          for (std::size_t k = 0; k < NO; ++k) y[k][p][to] = result[k];
        });
      };
      const auto in_time = [](const auto& result, const auto&)
                               MMREC_LAMBDA_INLINE { return result; };
      if constexpr (has_late<Op> && Parts == eight) {
        const auto late = [&](const auto&, const auto& before)
                              MMREC_LAMBDA_INLINE { return op.value(before); };
        if (how.late) [[unlikely]]
          walk(late);
        else
          walk(in_time);
      } else {
        walk(in_time);
      }
    });
    unroll<NO * Parts>([&](auto i) MMREC_LAMBDA_INLINE {
      constexpr std::size_t k = i / Parts, p = i % Parts;
      if (Op::optional_outputs && !rows.at.out[k]) return;
      store_transposed(y[k][p], out[k][p].at(apart), 0, Held == line && how.stream);
      out[k][p].move(Direction * index_t{Held});
    });
  }
  for (std::size_t p = 0; p < Parts; ++p) rows.carry[part + p] = carry[p];
}

}  // namespace mmrec::simd::detail
