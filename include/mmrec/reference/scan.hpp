// SPDX-License-Identifier: Apache-2.0
// Reference sweep: one sequence and one channel after the other, one step after the other.
#pragma once

#include <mmrec/backend.hpp>
#include <mmrec/sweep.hpp>

namespace mmrec {

template <class Op, element T, class State, std::size_t NI, std::size_t NO, std::size_t NS>
void sweep(const backend::reference&, const Op& op, const sweep_args<T, State, NI, NO, NS>& args) {
  for (index_t s = 0; s < args.sequences(); ++s) {
    const auto [batch, begin, length] = args.sequence(s);
    for (index_t channel = 0; channel < args.channels(); ++channel) {
      auto carry = op.load(args.carry_in ? args.carry_in(s, channel) : State(op.identity()));
      for (index_t i = 0; i < length; ++i) {
        const index_t step = args.reverse ? length - 1 - i : i;
        std::array<State, NI> in{};
        for (std::size_t k = 0; k < NI; ++k) {
          if (k + NS < NI) {
            in[k] = load_element<State>(&args.in[k](batch, begin + step, channel));
          } else if (step > 0) {
            in[k] = load_element<State>(&args.in[k](batch, begin + step - 1, channel));
          } else {
            const std::size_t e = k + NS - NI;
            in[k] = args.edge[e] ? args.edge[e](s, channel) : State(args.edge_default[e]);
          }
        }
        const auto results = op.step(carry, in);
        for (std::size_t k = 0; k < NO; ++k) {
          if (!args.out[k].out) continue;
          T* p = &args.out[k].out(batch, begin + step, channel);
          store_element(p,
                        args.out[k].accumulate ? load_element<State>(p) + results[k] : results[k]);
        }
      }
      if (args.carry_out.out) {
        State& p = args.carry_out.out(s, channel);
        const State value = op.store(carry);
        p = args.carry_out.accumulate ? p + value : value;
      }
    }
  }
}

}  // namespace mmrec
