// SPDX-License-Identifier: Apache-2.0
// The parts of a training step, each alone at the shapes it has in the model: which of them is far
// from the peak, and what a step spends outside of them. Alone means warm caches, so the parts are
// a lower bound of what they cost inside a step.
//
//   for (const part& p : parts_of(config, batch, time, threads)) ...   // p.run, p.flops, p.times
#pragma once

#include <mmrec/model.hpp>
#include <mmrec/optimizer.hpp>

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace bench {

struct part {
  std::string name;
  double flops;          // of the products of one call
  mmrec::index_t times;  // calls in one step
  std::function<void()> run;
};

/// Multiply-adds of a forward pass for one token: the products' only, without elementwise work.
inline double products_per_token(const mmrec::model_config& c) {
  const auto& b = c.block;
  const auto d = static_cast<double>(b.width), f = static_cast<double>(b.ffn);
  const auto top = static_cast<double>(mmrec::hds_slots(b.slots)[2]);
  const double decay = b.decay == mmrec::decay_kind::mdi
                           ? 4 * d * static_cast<double>(b.inner_width())
                           : 2 * d * static_cast<double>(b.dpg_rank);
  const double recurrence = d * d * (b.recurrence.mix_gate ? 3 : 1);
  const double attention = 2 * d * d + 2 * top * d;
  const double out = b.output_gate ? d * d : 0;
  return static_cast<double>(c.layers) *
             (4 * d * d + decay + recurrence + attention + out + 2 * d * f) +
         d * static_cast<double>(c.vocabulary);
}

/// Flops of the products of a step: forward, and twice that backward.
inline double step_flops(const mmrec::model_config& c, mmrec::index_t tokens) {
  return 6 * products_per_token(c) * static_cast<double>(tokens);
}

namespace detail {

using namespace mmrec;

/// Arrays that live as long as the functions that use them.
struct arrays {
  std::vector<std::vector<float>> kept;
  template <std::size_t Rank>
  view<float, Rank> operator()(const std::array<index_t, Rank>& extents, float scale = 1) {
    index_t n = 1;
    for (const index_t e : extents) n *= e;
    kept.emplace_back(static_cast<std::size_t>(n));
    for (std::size_t i = 0; i < kept.back().size(); ++i)
      kept.back()[i] = scale * (2 * static_cast<float>(random_uniform(1, kept.size(), i)) - 1);
    return view<float, Rank>{kept.back().data(), extents};
  }
};

struct parts_builder {
  model_config c;
  index_t batch, time;
  backend::simd cpu;
  std::shared_ptr<arrays> make = std::make_shared<arrays>();
  std::vector<part> list{};

  index_t tokens() const { return batch * time; }
  void add(std::string name, double products, index_t times, std::function<void()> run) {
    list.push_back(
        {std::move(name), 2 * products, times, [run = std::move(run), keep = make] { run(); }});
  }

  /// A linear layer of the model, forward and backward with all three gradients.
  template <class Activation>
  void add_linear(const std::string& name, index_t inputs, index_t outputs, index_t times,
                  bool bias = true) {
    const index_t n = tokens();
    const auto x = (*make)(std::array{n, inputs}), y = (*make)(std::array{n, outputs}),
               u = (*make)(std::array{n, outputs}), dy = (*make)(std::array{n, outputs}),
               dx = (*make)(std::array{n, inputs}), w = (*make)(std::array{outputs, inputs}, 0.1f),
               dw = (*make)(std::array{outputs, inputs});
    const auto b = bias ? (*make)(std::array{outputs}) : view<float, 1>{},
               db = bias ? (*make)(std::array{outputs}) : view<float, 1>{};
    const double products = static_cast<double>(n * inputs * outputs);
    constexpr bool keeps_input =
        !Activation::saves_output && !std::same_as<Activation, activation::identity>;
    add(name, products, times, [=, this_cpu = cpu] {
      linear<Activation>(this_cpu, x, w, y,
                         {.bias = b, .preactivation = keeps_input ? u : view<float, 2>{}});
    });
    add(name + " backward", 2 * products, times, [=, this_cpu = cpu] {
      linear_backward<Activation>(this_cpu, dy, x, w,
                                  {.saved = keeps_input ? u : y,
                                   .dx = dx,
                                   .dw = dw,
                                   .dbias = db,
                                   .accumulate_parameters = true});
    });
  }

  void add_recurrence() {
    const auto& b = c.block;
    const index_t d = b.width;
    const auto z = (*make)(std::array{batch, time, d}),
               gamma = (*make)(std::array{batch, time, d}, 0.5f),
               h = (*make)(std::array{batch, time, d}), dh = (*make)(std::array{batch, time, d}),
               dz = (*make)(std::array{batch, time, d}),
               dgamma = (*make)(std::array{batch, time, d}),
               gates = (*make)(std::array{batch, time, 2 * d});
    const bool mix = b.recurrence.mix_gate;
    const auto matrix = [&](index_t columns) { return (*make)(std::array{d, columns}, 0.1f); };
    const auto vector = [&] { return (*make)(std::array{d}); };
    const auto w = matrix(d), dw = matrix(d);
    const auto bias = vector(), dbias = vector();
    const auto wm = mix ? matrix(2 * d) : view<float, 2>{},
               dwm = mix ? matrix(2 * d) : view<float, 2>{};
    const auto bm = mix ? vector() : view<float, 1>{}, dbm = mix ? vector() : view<float, 1>{};
    const recurrence_weights<float> weights{w, bias, wm, bm};
    const double products = static_cast<double>(tokens() * d * d * (mix ? 3 : 1));
    add("recurrence", products, c.layers, [=, this_cpu = cpu, form = b.recurrence] {
      recurrence(this_cpu, z, gamma, weights, h, {.gates = gates, .form = form});
    });
    add("recurrence backward", 2 * products, c.layers, [=, this_cpu = cpu, form = b.recurrence] {
      recurrence_backward(this_cpu, dh, z, gamma, h, weights,
                          {.gates = gates,
                           .dz = dz,
                           .dgamma = dgamma,
                           .dblock = dw,
                           .dblock_bias = dbias,
                           .dmix = dwm,
                           .dmix_bias = dbm,
                           .accumulate_parameters = true,
                           .form = form});
    });
  }

  void add_attention() {
    const auto& b = c.block;
    const index_t d = b.width, top = hds_slots(b.slots)[2];
    const auto q = (*make)(std::array{batch, time, d}), o = (*make)(std::array{batch, time, d}),
               dq = (*make)(std::array{batch, time, d}), k = (*make)(std::array{batch, top, d}),
               v = (*make)(std::array{batch, top, d});
    const auto p = (*make)(std::array{batch, b.heads, time, top});
    const double products = static_cast<double>(2 * tokens() * top * d);
    add("attention over slots", products, c.layers, [=, this_cpu = cpu, heads = b.heads] {
      attention(this_cpu, q, k, v, heads, o, {.probabilities = p});
    });
    add("attention over slots backward", products, c.layers, [=, this_cpu = cpu, heads = b.heads] {
      attention_backward(this_cpu, o, q, k, v, p, heads, {.dq = dq});
    });
  }

  void add_norm() {
    const auto x = (*make)(std::array{tokens(), c.block.width}),
               y = (*make)(std::array{tokens(), c.block.width}),
               dx = (*make)(std::array{tokens(), c.block.width});
    const auto w = (*make)(std::array{c.block.width}), dw = (*make)(std::array{c.block.width});
    const index_t times = 2 * c.layers + 1;
    add("norm", 0, times,
        [=, this_cpu = cpu, o = c.block.norm] { rms_norm(this_cpu, x, w, y, o); });
    add("norm backward", 0, times, [=, this_cpu = cpu, o = c.block.norm] {
      rms_norm_backward(
          this_cpu, y, x, w,
          {.dx = dx, .dw = dw, .accumulate_dx = true, .accumulate_dw = true, .options = o});
    });
  }

  void add_ends() {
    add_linear<activation::identity>("head", c.block.width, c.vocabulary, 1, false);
    const auto table = (*make)(std::array{c.vocabulary, c.block.width}),
               x = (*make)(std::array{tokens(), c.block.width}),
               logits = (*make)(std::array{tokens(), c.vocabulary});
    std::vector<std::int32_t> ids(static_cast<std::size_t>(tokens()));
    for (std::size_t i = 0; i < ids.size(); ++i)
      ids[i] =
          static_cast<std::int32_t>(random_uniform(1, 0, i) * static_cast<double>(c.vocabulary));
    add("embedding, loss", 0, 1, [=, this_cpu = cpu] {
      const view<const std::int32_t, 1> at{ids.data(), {static_cast<index_t>(ids.size())}};
      embedding(this_cpu, at, table, x);
      cross_entropy(this_cpu, logits, at, {.dlogits = logits});
      embedding_backward(this_cpu, x, at, table);
    });
  }

  void add_optimizer() {
    const auto layout = model_layout(c);
    const index_t n = layout.back().offset + layout.back().size();
    const auto w = (*make)(std::array{n}), g = (*make)(std::array{n}), m = (*make)(std::array{n}),
               v = (*make)(std::array{n});
    for (index_t i = 0; i < n; ++i) v(i) = g(i) * g(i);
    add("gradient norm", 0, 1, [=, this_cpu = cpu] { norm2(this_cpu, view<const float, 1>(g)); });
    add("AdamW", 0, 1, [=, this_cpu = cpu] {
      adamw(this_cpu, w, view<const float, 1>(g), m, v, {.rate = 1e-6, .step = 100});
    });
  }
};

}  // namespace detail

inline std::vector<part> parts_of(const mmrec::model_config& c, mmrec::index_t batch,
                                  mmrec::index_t time, unsigned threads) {
  using namespace mmrec;
  detail::parts_builder b{c, batch, time, backend::simd{.threads = threads}};
  const index_t d = c.block.width, f = c.block.ffn, layers = c.layers;
  b.add_linear<activation::identity>("q k v z", d, 4 * d, layers);
  if (c.block.decay == decay_kind::mdi) {
    b.add_linear<activation::gelu>("decay in", d, c.block.inner_width(), 2 * layers);
    b.add_linear<activation::sigmoid>("decay out", c.block.inner_width(), d, 2 * layers);
  } else {
    b.add_linear<activation::relu>("decay in", d, c.block.dpg_rank, layers);
    b.add_linear<activation::sigmoid>("decay out", c.block.dpg_rank, d, layers);
  }
  b.add_recurrence();
  b.add_linear<activation::identity>("attention in, out", d, d,
                                     (c.block.output_gate ? 3 : 2) * layers);
  b.add_attention();
  mmrec::detail::with_activation(c.block.activation, [&]<class Activation>() {
    b.add_linear<Activation>("feed-forward in", d, f, layers);
  });
  b.add_linear<activation::identity>("feed-forward out", f, d, layers);
  b.add_norm();
  b.add_ends();
  b.add_optimizer();
  return std::move(b.list);
}

}  // namespace bench
