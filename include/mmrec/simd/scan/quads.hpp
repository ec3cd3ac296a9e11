// SPDX-License-Identifier: Apache-2.0
// Channel-last sweep of few channels: a quad is 16 bytes of neighbouring channels, and a register
// holds one step of as many quads as it has 128-bit lanes, from one sequence after the other, where
// a register of one sequence alone would be mostly empty. Loads and stores of 16 bytes put it
// together and take it apart without shuffles.
#pragma once

#include <mmrec/simd/scan/streams.hpp>

namespace mmrec::simd::detail {

/// The quads of one register, and where they are. Spare ones repeat the last live one and so write
/// what it writes.
template <class V, class Op, class T, class State, std::size_t NI, std::size_t NO, std::size_t NS>
class quad_group {
 public:
  using arguments = sweep_args<T, State, NI, NO, NS>;
  static constexpr std::size_t w = sizeof(V) / 16, q = quad<T>;
  static constexpr auto width = static_cast<index_t>(q);  // channels of a quad
  static constexpr std::size_t at_once = 4;
  static constexpr index_t turn = 16;

  /// All steps of at_once whole registers side by side, in place of turns, where sequences have one
  /// quad each and all arrays the same strides: what a register needs is then known beforehand.
  static bool all_at_once(const Op& op, const arguments& args, index_t first) {
    const index_t apart = args.in[0].stride(0), step = args.in[0].stride(1);
    bool even = args.channels() == width && !args.carry_in && !args.carry_out.out;
    const auto check = [&](const auto& v) {
      even = even && v.stride(0) == apart && v.stride(1) == step;
    };
    for (const auto& v : args.in) check(v);
    for (const auto& v : args.out) check(v.out);
    if (!even) return false;
    const index_t steps = args.in[0].extent(1), walk = args.reverse ? -step : step;
    const index_t start = first * apart + (args.reverse ? (steps - 1) * step : 0);
    std::array<const T*, NI> in;
    std::array<T*, NO> out;
    for (std::size_t k = 0; k < NI; ++k) in[k] = args.in[k].data_handle() + start;
    for (std::size_t k = 0; k < NO; ++k) out[k] = args.out[k].out.data_handle() + start;
    // Four quads to a pointer: the processor adds one, two or three strides by itself.
    const index_t apart3 = 3 * apart;
    const auto quad_at = [&](auto* p, std::size_t i) MMREC_LAMBDA_INLINE {
      p += static_cast<index_t>(i / 4 * 4) * apart;
      return i % 4 == 3 ? p + apart3 : p + static_cast<index_t>(i % 4) * apart;
    };
    std::array<V, Op::carries> carry[at_once];
    for (auto& c : carry) c = op.load(V(static_cast<State>(op.identity())));
    for (index_t t = 0; t < steps; ++t) {
      unroll<at_once>([&](auto r) MMREC_LAMBDA_INLINE {
        std::array<V, NI> x;
        for (std::size_t k = 0; k < NI; ++k) {
          std::array<const T*, w> quads;
          for (std::size_t i = 0; i < w; ++i) quads[i] = quad_at(in[k], r() * w + i);
          x[k] = load(quads, 0);
        }
        const auto y = scan_ops::end_step(op, scan_ops::begin_step(op, carry[r()], x));
        for (std::size_t k = 0; k < NO; ++k)
          unroll<w>([&](auto i) MMREC_LAMBDA_INLINE {
            store_quad<V, i()>(quad_at(out[k], r() * w + i()), raw(y[k]));
          });
      });
      for (auto& p : in) p += walk;
      for (auto& p : out) p += walk;
    }
    return true;
  }

  void begin(const Op& op, const arguments& args, index_t first, index_t live) {
    const index_t channels = args.channels();
    first_ = first, live_ = live;
    const index_t s = channels == width ? first : first * width / channels;
    index_t channel = first * width - s * channels;
    const index_t step = args.reverse ? args.in[0].extent(1) - 1 : 0;
    std::array<const T*, NI> in;
    std::array<T*, NO> out;
    for (std::size_t k = 0; k < NI; ++k) {
      const auto& v = args.in[k];
      in[k] = v.data_handle() + s * v.stride(0) + (step - (k + NS < NI ? 0 : 1)) * v.stride(1) +
              channel;
      in_step_[k] = args.reverse ? -v.stride(1) : v.stride(1);
    }
    for (std::size_t k = 0; k < NO; ++k) {
      const auto& v = args.out[k].out;
      out[k] = v ? v.data_handle() + s * v.stride(0) + step * v.stride(1) + channel : nullptr;
      out_step_[k] = args.reverse ? -v.stride(1) : v.stride(1);
    }
    for (std::size_t i = 0; i < w; ++i) {
      for (std::size_t k = 0; k < NI; ++k) in_[k][i] = in[k];
      for (std::size_t k = 0; k < NO; ++k) out_[k][i] = out[k];
      if (static_cast<index_t>(i) + 1 >= live) continue;
      channel += width;
      const bool next = channel == channels;
      if (next) channel = 0;
      const auto move = [&](const auto& v) {
        return next ? v.stride(0) - (channels - width) : width;
      };
      for (std::size_t k = 0; k < NI; ++k) in[k] += move(args.in[k]);
      for (std::size_t k = 0; k < NO; ++k)
        if (out[k]) out[k] += move(args.out[k].out);
    }
    carry_ = op.load(states(args, args.carry_in, op.identity()));
  }

  /// Steps [t, t + n) in walking order.
  void advance(const Op& op, const arguments& args, index_t t, index_t n, const storing& how) {
    const index_t edge = NS == 0 ? -1 : args.reverse ? args.in[0].extent(1) - 1 : 0;
    // Local copies stay in registers.
    auto carry = carry_;
    const auto in = in_;
    const auto out = out_;
    const auto in_step = in_step_;
    const auto out_step = out_step_;
    std::array<index_t, NI> in_at;
    std::array<index_t, NO> out_at;
    for (std::size_t k = 0; k < NI; ++k) in_at[k] = t * in_step[k];
    for (std::size_t k = 0; k < NO; ++k) out_at[k] = t * out_step[k];
    using begun = decltype(scan_ops::begin_step(op, carry, std::array<V, NI>{}));
    constexpr index_t together = scan_ops::costly_value<Op> ? 8 : 1;
    std::array<begun, together> halves;
    for (const index_t end = t + n; t < end; t += together) {
      const auto now = static_cast<std::size_t>(std::min(together, end - t));
      for (std::size_t i = 0; i < now; ++i) {
        std::array<V, NI> x;
        for (std::size_t k = 0; k < NI - NS; ++k) x[k] = load(in[k], in_at[k]);
        unroll<NS>([&](auto e) MMREC_LAMBDA_INLINE {
          constexpr std::size_t k = NI - NS + e();
          x[k] = t + static_cast<index_t>(i) == edge
                     ? states(args, args.edge[e], args.edge_default[e])
                     : load(in[k], in_at[k]);
        });
        [[maybe_unused]] const auto before = carry;
        halves[i] = scan_ops::begin_step(op, carry, x);
        if constexpr (has_late<Op>)
          if (how.late) halves[i] = scan_ops::begin_before(op, before);
        for (std::size_t k = 0; k < NI; ++k) in_at[k] += in_step[k];
      }
      for (std::size_t i = 0; i < now; ++i) {
        auto y = scan_ops::end_step(op, halves[i]);
        for (std::size_t k = 0; k < NO; ++k) {
          if (Op::optional_outputs && !out[k][0]) continue;
          if (Op::optional_outputs && args.out[k].accumulate) y[k] = y[k] + load(out[k], out_at[k]);
          unroll<w>([&](auto j) MMREC_LAMBDA_INLINE {
            store_quad<V, j()>(out[k][j()] + out_at[k], raw(y[k]));
          });
        }
        for (std::size_t k = 0; k < NO; ++k) out_at[k] += out_step[k];
      }
    }
    carry_ = carry;
  }

  void end(const Op& op, const arguments& args) const {
    if (!args.carry_out.out) return;
    alignas(64) State state[lanes<V>];
    op.store(carry_).store_unaligned(state);
    for_each_quad(args, [&](std::size_t i, index_t s, index_t channel) {
      if (static_cast<index_t>(i) < live_)
        write_state(state + i * q, args.carry_out, s, channel, width);
    });
  }

 private:
  template <class P>
  static MMREC_INLINE V load(const std::array<P, w>& quads, index_t offset) {
    return from_raw<V>(load_quads<V, 1>(quads, 0, offset));
  }

  /// f(quad in the register, sequence, first channel)
  template <class F>
  void for_each_quad(const arguments& args, const F& f) const {
    const index_t per_sequence = args.channels() / width;
    for (std::size_t i = 0; i < w; ++i) {
      const index_t at = first_ + std::min(static_cast<index_t>(i), live_ - 1);
      const index_t s = per_sequence == 1 ? at : at / per_sequence;
      f(i, s, (at - s * per_sequence) * width);
    }
  }

  V states(const arguments& args, const view<const State, 2>& from, double otherwise) const {
    if (!from) return V(static_cast<State>(otherwise));
    alignas(64) State buffer[lanes<V>];
    for_each_quad(args, [&](std::size_t i, index_t s, index_t channel) {
      for (std::size_t j = 0; j < q; ++j)
        buffer[i * q + j] = from(s, channel + static_cast<index_t>(j));
    });
    return V::load_unaligned(buffer);
  }

  index_t first_, live_;
  std::array<std::array<const T*, w>, NI> in_;
  std::array<std::array<T*, w>, NO> out_;
  std::array<index_t, NI> in_step_;
  std::array<index_t, NO> out_step_;
  std::array<V, Op::carries> carry_;
};

}  // namespace mmrec::simd::detail
