// SPDX-License-Identifier: Apache-2.0
// The MM-Rec block's configuration and parameters. All parameters live in one flat array, and so do
// their gradients; `block_layout` names the parts, and `block_parameters` are views of them.
#pragma once

#include <mmrec/activation.hpp>
#include <mmrec/decay.hpp>
#include <mmrec/memory_state.hpp>
#include <mmrec/norm.hpp>
#include <mmrec/recurrence.hpp>

#include <string>
#include <vector>

namespace mmrec {

enum class decay_kind { mdi, dpg };
enum class ffn_activation { gelu, relu, silu };

struct block_config {
  index_t width = 128;  ///< D
  index_t heads = 4;
  index_t ffn = 512;           ///< F
  index_t inner = 0;           ///< I of MDI; 0: D / 4
  index_t slots = 1024;        ///< M, 16 or more
  index_t short_slots = 0;     ///< rows of the short-term bank (update::reference)
  index_t memory_block = 128;  ///< tokens between two writes (update::stream)
  decay_kind decay = decay_kind::mdi;
  index_t dpg_rank = 128;
  enum update update = update::stream;
  enum write_rule write = write_rule::ring;
  ffn_activation activation = ffn_activation::gelu;
  bool convex = false;       ///< z replaced by (1 - gamma) o z in the recurrence
  bool output_gate = false;  ///< W_p(h o silu(q)) in place of h in the residual sum
  double dropout = 0;
  rms_norm_options norm{};
  recurrence_form recurrence{};

  index_t inner_width() const { return inner > 0 ? inner : std::max<index_t>(1, width / 4); }
};

/// Throws mmrec::error for a configuration that cannot be.
inline void check_config(const char* function, const block_config& c) {
  check_positive(function, "width", c.width);
  check_positive(function, "heads", c.heads);
  if (c.width % c.heads != 0)
    throw error(function, "heads", "a divisor of width = " + std::to_string(c.width),
                std::to_string(c.heads));
  check_positive(function, "ffn", c.ffn);
  if (c.slots < 16) throw error(function, "slots", "16 or more", std::to_string(c.slots));
  if (c.inner < 0) throw error(function, "inner", "0 or more", std::to_string(c.inner));
  if (c.short_slots < 0)
    throw error(function, "short_slots", "0 or more", std::to_string(c.short_slots));
  check_positive(function, "memory_block", c.memory_block);
  if (c.decay == decay_kind::dpg) check_positive(function, "dpg_rank", c.dpg_rank);
  check_rate(function, "dropout", c.dropout);
  check_form(function, c.recurrence);
}

/// A named part of a flat array.
struct parameter {
  std::string name;
  std::vector<index_t> shape;
  index_t offset = 0;

  index_t size() const {
    index_t n = 1;
    for (const index_t e : shape) n *= e;
    return n;
  }
};

/// The parts of one block in storage order; names are the MM-Rec reference model's. W_q, W_k, W_v,
/// W_z follow one another, weights and biases, so that one product computes all four.
inline std::vector<parameter> block_layout(const block_config& c) {
  const index_t d = c.width, f = c.ffn, i = c.inner_width(), r = c.dpg_rank;
  std::vector<parameter> parts;
  index_t offset = 0;
  const auto add = [&](std::string name, std::vector<index_t> shape) {
    parts.push_back({std::move(name), std::move(shape), offset});
    offset += parts.back().size();
  };
  const auto add_linear = [&](const std::string& name, index_t out, index_t in) {
    add(name + ".weight", {out, in});
    add(name + ".bias", {out});
  };
  for (const char* name : {"W_q", "W_k", "W_v", "W_z"}) add(std::string(name) + ".weight", {d, d});
  for (const char* name : {"W_q", "W_k", "W_v", "W_z"}) add(std::string(name) + ".bias", {d});
  add_linear("W_g", d, d);
  if (c.recurrence.mix_gate) add_linear("mdi.W_g", d, 2 * d);
  if (c.decay == decay_kind::mdi) {
    add_linear("mdi.W_gamma.0", i, d);
    add_linear("mdi.W_gamma.2", d, i);
    add_linear("mdi.W_context.0", i, d);
    add_linear("mdi.W_context.2", d, i);
  } else {
    add_linear("W_gamma_down", r, d);
    add_linear("W_gamma_up", d, r);
  }
  add_linear("multi_mem_attention.W_q", d, d);
  add_linear("multi_mem_attention.W_o", d, d);
  if (c.output_gate) add_linear("W_out", d, d);
  add_linear("ffn.0", f, d);
  add_linear("ffn.3", d, f);
  add("norm1.weight", {d});
  add("norm2.weight", {d});
  return parts;
}

template <class T>
struct linear_parameters {
  view<T, 2> weight{};
  view<T, 1> bias{};
};

/// Views of one block's parts; T is const for parameters that are read.
template <class T>
struct block_parameters {
  linear_parameters<T> qkvz;  ///< (4D, D), (4D)
  linear_parameters<T> gate;  ///< W_b of the recurrence
  linear_parameters<T> mix;   ///< W_m of the recurrence
  decay_branch_weights<T> decay, context;
  linear_parameters<T> attention_query, attention_out, out, ffn_in, ffn_out;
  view<T, 1> norm1, norm2;

  block_parameters(const block_config& c, T* base) {
    const index_t d = c.width;
    for (const auto& part : block_layout(c)) {
      T* p = base + part.offset;
      const auto matrix = [&] { return view<T, 2>{p, {part.shape[0], part.shape[1]}}; };
      const auto vector = [&] { return view<T, 1>{p, {part.shape[0]}}; };
      const auto take = [&](const char* name, auto& weight, auto& bias) {
        if (part.name == std::string(name) + ".weight") weight = matrix();
        if (part.name == std::string(name) + ".bias") bias = vector();
      };
      if (part.name == "W_q.weight") qkvz.weight = {p, {4 * d, d}};
      if (part.name == "W_q.bias") qkvz.bias = {p, {4 * d}};
      take("W_g", gate.weight, gate.bias);
      take("mdi.W_g", mix.weight, mix.bias);
      take("mdi.W_gamma.0", decay.w0, decay.b0);
      take("mdi.W_gamma.2", decay.w2, decay.b2);
      take("mdi.W_context.0", context.w0, context.b0);
      take("mdi.W_context.2", context.w2, context.b2);
      take("W_gamma_down", decay.w0, decay.b0);
      take("W_gamma_up", decay.w2, decay.b2);
      take("multi_mem_attention.W_q", attention_query.weight, attention_query.bias);
      take("multi_mem_attention.W_o", attention_out.weight, attention_out.bias);
      take("W_out", out.weight, out.bias);
      take("ffn.0", ffn_in.weight, ffn_in.bias);
      take("ffn.3", ffn_out.weight, ffn_out.bias);
      if (part.name == "norm1.weight") norm1 = vector();
      if (part.name == "norm2.weight") norm2 = vector();
    }
  }
  recurrence_weights<std::remove_const_t<T>> recurrence() const {
    return {gate.weight, gate.bias, mix.weight, mix.bias};
  }
};

inline index_t block_size(const block_config& c) {
  const auto parts = block_layout(c);
  return parts.back().offset + parts.back().size();
}

}  // namespace mmrec
