// SPDX-License-Identifier: Apache-2.0
// The MM-Rec block's configuration and parameters. All parameters live in one flat array, and so do
// their gradients; `block_layout` names the parts, and `block_parameters` are views of them.
#pragma once

#include <mmrec/activation.hpp>
#include <mmrec/decay.hpp>
#include <mmrec/memory_state.hpp>
#include <mmrec/norm.hpp>
#include <mmrec/recurrence.hpp>

#include <initializer_list>
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
  check_not_negative(function, "norm.epsilon", c.norm.epsilon);
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

template <class T>
struct linear_parameters {
  view<T, 2> weight{};
  view<T, 1> bias{};

  /// Converts to those that are read.
  template <std::same_as<T> U>
    requires(!std::is_const_v<U>)
  operator linear_parameters<const U>() const {
    return {weight, bias};
  }
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

  block_parameters() = default;
  block_parameters(const block_config& c, T* base) {
    for_each(
        c,
        [&](std::initializer_list<const char*> names, auto& weight, auto& bias, index_t outputs,
            index_t inputs) {
          outputs *= static_cast<index_t>(names.size());
          weight = {base, {outputs, inputs}};
          bias = {base + weight.size(), {outputs}};
          base += weight.size() + outputs;
        },
        [&](const char*, auto& weight, index_t n) {
          weight = {base, {n}};
          base += n;
        });
  }
  /// Parameters convert to those that are read.
  template <class U>
    requires(std::same_as<const U, T> && !std::same_as<U, T>)
  block_parameters(const block_parameters<U>& w)
      : qkvz(w.qkvz),
        gate(w.gate),
        mix(w.mix),
        decay(w.decay),
        context(w.context),
        attention_query(w.attention_query),
        attention_out(w.attention_out),
        out(w.out),
        ffn_in(w.ffn_in),
        ffn_out(w.ffn_out),
        norm1(w.norm1),
        norm2(w.norm2) {}

  /// The parts in storage order, by the names of the MM-Rec reference model: layer(names, weight,
  /// bias, outputs, inputs) for every linear layer and norm(name, weight, n) for every norm. W_q,
  /// W_k, W_v, W_z follow one another, weights and biases, so that one product computes all four:
  /// they are one layer of several names, with `outputs` each.
  template <class Layer, class Norm>
  void for_each(const block_config& c, const Layer& layer, const Norm& norm) {
    visit(*this, c, layer, norm);
  }
  template <class Layer, class Norm>
  void for_each(const block_config& c, const Layer& layer, const Norm& norm) const {
    visit(*this, c, layer, norm);
  }

  recurrence_weights<std::remove_const_t<T>> recurrence() const {
    return {gate.weight, gate.bias, mix.weight, mix.bias};
  }

 private:
  template <class Self, class Layer, class Norm>
  static void visit(Self& p, const block_config& c, const Layer& layer, const Norm& norm) {
    const index_t d = c.width, i = c.inner_width(), r = c.dpg_rank;
    layer({"W_q", "W_k", "W_v", "W_z"}, p.qkvz.weight, p.qkvz.bias, d, d);
    layer({"W_g"}, p.gate.weight, p.gate.bias, d, d);
    if (c.recurrence.mix_gate) layer({"mdi.W_g"}, p.mix.weight, p.mix.bias, d, 2 * d);
    if (c.decay == decay_kind::mdi) {
      layer({"mdi.W_gamma.0"}, p.decay.w0, p.decay.b0, i, d);
      layer({"mdi.W_gamma.2"}, p.decay.w2, p.decay.b2, d, i);
      layer({"mdi.W_context.0"}, p.context.w0, p.context.b0, i, d);
      layer({"mdi.W_context.2"}, p.context.w2, p.context.b2, d, i);
    } else {
      layer({"W_gamma_down"}, p.decay.w0, p.decay.b0, r, d);
      layer({"W_gamma_up"}, p.decay.w2, p.decay.b2, d, r);
    }
    layer({"multi_mem_attention.W_q"}, p.attention_query.weight, p.attention_query.bias, d, d);
    layer({"multi_mem_attention.W_o"}, p.attention_out.weight, p.attention_out.bias, d, d);
    if (c.output_gate) layer({"W_out"}, p.out.weight, p.out.bias, d, d);
    layer({"ffn.0"}, p.ffn_in.weight, p.ffn_in.bias, c.ffn, d);
    layer({"ffn.3"}, p.ffn_out.weight, p.ffn_out.bias, d, c.ffn);
    norm("norm1", p.norm1, d);
    norm("norm2", p.norm2, d);
  }
};

/// The parts of one block, named, in storage order.
inline std::vector<parameter> block_layout(const block_config& c) {
  std::vector<parameter> parts;
  index_t offset = 0;
  const auto add = [&](std::string name, std::vector<index_t> shape) {
    parts.push_back({std::move(name), std::move(shape), offset});
    offset += parts.back().size();
  };
  block_parameters<const float>().for_each(
      c,
      [&](std::initializer_list<const char*> names, const auto&, const auto&, index_t outputs,
          index_t inputs) {
        for (const char* name : names) add(std::string(name) + ".weight", {outputs, inputs});
        for (const char* name : names) add(std::string(name) + ".bias", {outputs});
      },
      [&](const char* name, const auto&, index_t n) { add(std::string(name) + ".weight", {n}); });
  return parts;
}

/// The number of elements of one block.
inline index_t block_size(const block_config& c) {
  index_t total = 0;
  block_parameters<const float>().for_each(
      c,
      [&](std::initializer_list<const char*> names, const auto&, const auto&, index_t outputs,
          index_t inputs) { total += static_cast<index_t>(names.size()) * outputs * (inputs + 1); },
      [&](const char*, const auto&, index_t n) { total += n; });
  return total;
}

/// Throws mmrec::error unless the parts have the configuration's shapes; also(name, part) may throw
/// for more.
template <class T, class Also>
void check_parameters(const char* function, const block_config& c, const block_parameters<T>& w,
                      const Also& also) {
  w.for_each(
      c,
      [&](std::initializer_list<const char*> names, const auto& weight, const auto& bias,
          index_t outputs, index_t inputs) {
        const char* name = *names.begin();
        outputs *= static_cast<index_t>(names.size());
        check_dense(function, name, weight, {outputs, inputs});
        check_dense(function, name, bias, {outputs});
        also(name, weight);
        also(name, bias);
      },
      [&](const char* name, const auto& weight, index_t n) {
        check_dense(function, name, weight, {n});
        also(name, weight);
      });
}

}  // namespace mmrec
