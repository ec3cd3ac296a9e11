// SPDX-License-Identifier: Apache-2.0
// Every public function takes what it reads as views of mutable elements too, with the results of
// views of const ones; and, where a rank fits, as the arrays themselves.
#include <mmrec/mmrec.hpp>

#include <Eigen/Core>

#include <array>
#include <cmath>
#include <cstddef>
#include <deque>
#include <type_traits>
#include <vector>

#include "support/catch.hpp"
#include "support/compiled_passes.hpp"
#include "support/on_both_backends.hpp"

using namespace mmrec;
using namespace mmrec::testing;

namespace {

/// What a call reads, as views of const or of mutable elements, and what it writes.
template <bool Const>
class arrays {
  template <class T>
  using read = std::conditional_t<Const, const T, T>;

 public:
  /// Numbers in (0, 1), of which several are 0.1, 0.2, ...
  template <class... N>
  view<read<double>, sizeof...(N)> in(N... extents) {
    return fill<double>(
        inputs_, [](std::size_t i) { return 0.1 * double(1 + i * i % 9); }, extents...);
  }
  /// Integers from 0 to 3.
  template <class... N>
  view<read<int>, sizeof...(N)> ids(N... extents) {
    return fill<int>(ids_, [](std::size_t i) { return int(i * i % 7 % 4); }, extents...);
  }
  template <class... N>
  view<double, sizeof...(N)> out(N... extents) {
    return fill<double>(results_, [](std::size_t i) { return 0.01 * double(i % 5); }, extents...);
  }
  void returned(double value) { results_.push_back({value}); }
  const std::deque<std::vector<double>>& results() const { return results_; }

 private:
  template <class T, class F, class... N>
  static view<T, sizeof...(N)> fill(std::deque<std::vector<T>>& all, const F& f, N... extents) {
    auto& memory = all.emplace_back(static_cast<std::size_t>((index_t(extents) * ...)));
    for (std::size_t i = 0; i < memory.size(); ++i) memory[i] = f(i);
    return {memory.data(), {index_t(extents)...}};
  }
  std::deque<std::vector<double>> inputs_, results_;
  std::deque<std::vector<int>> ids_;
};

/// call(arrays) with both kinds of views.
template <class Call>
void check(const char* function, const Call& call) {
  INFO(function);
  arrays<true> constant;
  arrays<false> mutable_;
  call(constant);
  call(mutable_);
  CHECK(!constant.results().empty());
  CHECK(mutable_.results() == constant.results());
}

/// A decay branch's weights, or their gradients, of the same constness as the views.
template <class T>
decay_branch_weights<T> branch(const view<T, 2>& w0, const view<T, 1>& b0, const view<T, 2>& w2,
                               const view<T, 1>& b2) {
  return {w0, b0, w2, b2};
}

block_config small_block() {
  block_config c;
  c.width = 8, c.heads = 2, c.ffn = 8, c.slots = 16, c.memory_block = 4;
  return c;
}

}  // namespace

TEST_CASE("mutable inputs: scans", "[components][scan]") {
  on_each_backend([](const auto& on) {
    check("cumsum", [&](auto& a) { cumsum(on, a.in(2, 5, 3), a.out(2, 5, 3)); });
    check("cumprod", [&](auto& a) {
      cumprod(on, a.in(2, 5, 3), a.out(2, 5, 3), {.initial = a.in(2, 3), .final = a.out(2, 3)});
    });
    check("log_cumprod", [&](auto& a) { log_cumprod(on, a.in(2, 5, 3), a.out(2, 5, 3)); });
    check("logcumsumexp", [&](auto& a) { logcumsumexp(on, a.in(2, 5, 3), a.out(2, 5, 3)); });
    check("linear_scan", [&](auto& a) {
      linear_scan(on, a.in(2, 5, 3), a.in(2, 5, 3), a.out(2, 5, 3), {.initial = a.in(2, 3)});
    });
    check("log_linear_scan",
          [&](auto& a) { log_linear_scan(on, a.in(2, 5, 3), a.in(2, 5, 3), a.out(2, 5, 3)); });
  });
}

TEST_CASE("mutable inputs: gradients of scans", "[components][scan][gradients]") {
  on_each_backend([](const auto& on) {
    check("cumsum_backward", [&](auto& a) { cumsum_backward(on, a.in(2, 5, 3), a.out(2, 5, 3)); });
    check("cumprod_backward", [&](auto& a) {
      cumprod_backward(on, a.in(2, 5, 3), a.in(2, 5, 3), a.in(2, 5, 3), a.out(2, 5, 3),
                       {.initial = a.in(2, 3), .dfinal = a.in(2, 3), .dinitial = a.out(2, 3)});
    });
    check("log_cumprod_backward",
          [&](auto& a) { log_cumprod_backward(on, a.in(2, 5, 3), a.in(2, 5, 3), a.out(2, 5, 3)); });
    check("logcumsumexp_backward", [&](auto& a) {
      logcumsumexp_backward(on, a.in(2, 5, 3), a.in(2, 5, 3), a.in(2, 5, 3), a.out(2, 5, 3));
    });
    check("linear_scan_backward", [&](auto& a) {
      linear_scan_backward(on, a.in(2, 5, 3), a.in(2, 5, 3), a.in(2, 5, 3),
                           {.da = a.out(2, 5, 3), .db = a.out(2, 5, 3), .initial = a.in(2, 3)});
    });
    check("log_linear_scan_backward", [&](auto& a) {
      log_linear_scan_backward(on, a.in(2, 5, 3), a.in(2, 5, 3), a.in(2, 5, 3), a.in(2, 5, 3),
                               {.da = a.out(2, 5, 3), .db = a.out(2, 5, 3)});
    });
    check("linear_scan_double_backward", [&](auto& a) {
      linear_scan_double_backward(on, a.in(2, 5, 3), a.in(2, 5, 3), a.in(2, 5, 3), a.in(2, 5, 3),
                                  a.in(2, 5, 3), a.out(2, 5, 3),
                                  {.da = a.out(2, 5, 3), .vinitial = a.in(2, 3)});
    });
  });
}

TEST_CASE("mutable inputs: linear, norm, attention, transform", "[components][gradients]") {
  on_each_backend([](const auto& on) {
    check("linear", [&](auto& a) {
      linear<activation::gelu>(on, a.in(3, 5), a.in(4, 5), a.out(3, 4),
                               {.bias = a.in(4), .preactivation = a.out(3, 4)});
    });
    check("linear_relu",
          [&](auto& a) { linear_relu(on, a.in(3, 5), a.in(4, 5), a.in(4), a.out(3, 4)); });
    check("packed_weights", [&](auto& a) {
      const packed_weights packed(on, a.in(4, 5));
      linear<activation::relu>(on, a.in(3, 5), packed, a.out(3, 4));
    });
    check("linear_backward", [&](auto& a) {
      linear_backward<activation::relu>(
          on, a.in(3, 4), a.in(3, 5), a.in(4, 5),
          {.saved = a.in(3, 4), .dx = a.out(3, 5), .dw = a.out(4, 5), .dbias = a.out(4)});
    });
    check("rms_norm", [&](auto& a) { rms_norm(on, a.in(3, 5), a.in(5), a.out(3, 5)); });
    check("rms_norm_backward", [&](auto& a) {
      rms_norm_backward(on, a.in(3, 5), a.in(3, 5), a.in(5),
                        {.dx = a.out(3, 5), .dw = a.out(5), .residual = a.in(3, 5)});
    });
    check("attention", [&](auto& a) {
      attention(on, a.in(2, 3, 8), a.in(2, 4, 8), a.in(2, 4, 8), 2, a.out(2, 3, 8),
                {.probabilities = a.out(2, 2, 3, 4)});
    });
    check("attention_backward", [&](auto& a) {
      attention_backward(on, a.in(2, 3, 8), a.in(2, 3, 8), a.in(2, 4, 8), a.in(2, 4, 8),
                         a.in(2, 2, 3, 4), 2,
                         {.dq = a.out(2, 3, 8), .dk = a.out(2, 4, 8), .dv = a.out(2, 4, 8)});
    });
    check("transform", [&](auto& a) { transform(on, same_value{}, a.out(3, 5), a.in(3, 5)); });
  });
}

TEST_CASE("mutable inputs: embedding, loss, optimizer", "[components][gradients]") {
  on_each_backend([](const auto& on) {
    check("embedding", [&](auto& a) { embedding(on, a.ids(6), a.in(4, 5), a.out(6, 5)); });
    check("embedding_backward",
          [&](auto& a) { embedding_backward(on, a.in(6, 5), a.ids(6), a.out(4, 5)); });
    check("cross_entropy", [&](auto& a) {
      a.returned(cross_entropy(on, a.in(6, 4), a.ids(6), {.dlogits = a.out(6, 4)}));
    });
    check("cross_entropy to memory",
          [&](auto& a) { cross_entropy(on, a.in(6, 4), a.ids(6), a.out(1), {}); });
    check("adamw", [&](auto& a) { adamw(on, a.out(7), a.in(7), a.out(7), a.out(7), {.step = 2}); });
    check("norm2", [&](auto& a) { a.returned(norm2(on, a.in(7))); });
    check("clip_to", [&](auto& a) {
      std::vector<gradient_clip> clip(1);
      clip_to(on, a.in(7), 0.5, clip.data());
      a.returned(clip[0].norm), a.returned(clip[0].factor);
    });
  });
}

TEST_CASE("mutable inputs: recurrence, decay, memory", "[components][gradients]") {
  on_each_backend([](const auto& on) {
    const auto weights = [](auto& a) {
      return recurrence_weights<double>{a.in(8, 8), a.in(8), a.in(8, 16), a.in(8)};
    };
    check("recurrence", [&](auto& a) {
      recurrence(on, a.in(2, 5, 8), a.in(2, 5, 8), weights(a), a.out(2, 5, 8),
                 {.initial = a.in(2, 8), .gates = a.out(2, 5, 16)});
    });
    check("recurrence_backward", [&](auto& a) {
      recurrence_backward(on, a.in(2, 5, 8), a.in(2, 5, 8), a.in(2, 5, 8), a.in(2, 5, 8),
                          weights(a), {.gates = a.in(2, 5, 16), .dz = a.out(2, 5, 8)});
    });
    check("decay_branch", [&](auto& a) {
      decay_branch<activation::gelu>(on, a.in(3, 8),
                                     branch(a.in(4, 8), a.in(4), a.in(8, 4), a.in(8)),
                                     {a.out(3, 4), a.out(3, 4), a.out(3, 8)});
    });
    check("decay_branch_backward", [&](auto& a) {
      decay_branch_backward<activation::gelu>(
          on, a.in(3, 8), a.in(3, 8), branch(a.in(4, 8), a.in(4), a.in(8, 4), a.in(8)),
          {a.out(3, 4), a.out(3, 4), a.out(3, 8)},
          branch(a.out(4, 8), a.out(4), a.out(8, 4), a.out(8)), a.out(3, 8), false);
    });
    check("combine_decay",
          [&](auto& a) { combine_decay(on, a.in(3, 8), a.in(3, 8), a.out(3, 8)); });
    check("combine_decay without a context",
          [&](auto& a) { combine_decay(on, a.in(3, 8), {}, a.out(3, 8)); });
    check("combine_decay_backward", [&](auto& a) {
      combine_decay_backward(on, a.in(3, 8), a.in(3, 8), a.in(3, 8), a.out(3, 8), a.out(3, 8));
    });
    check("integrate", [&](auto& a) {
      integrate(on, a.in(3, 8), a.in(3, 8), a.in(3, 8), a.in(8, 16), a.in(8), a.out(3, 8),
                a.out(3, 8));
    });
    check("integrate_backward", [&](auto& a) {
      integrate_backward(on, a.in(3, 8), a.in(3, 8), a.in(3, 8), a.in(3, 8), a.in(8, 16),
                         a.in(3, 8), a.out(3, 8), a.out(3, 8), a.out(3, 8), a.out(8, 16), a.out(8));
    });
    check("hds_pool", [&](auto& a) { hds_pool(on, a.in(2, 16, 8), a.out(2, 4, 8)); });
    check("hds_pool_backward",
          [&](auto& a) { hds_pool_backward(on, a.in(2, 4, 8), a.out(2, 16, 8)); });
    check("hds_top", [&](auto& a) { hds_top(on, a.in(2, 16, 8), a.out(2, 1, 8)); });
    check("hds_top_backward",
          [&](auto& a) { hds_top_backward(on, a.in(2, 1, 8), a.out(2, 16, 8)); });
  });
}

TEST_CASE("mutable inputs: block and model", "[components][gradients]") {
  on_each_backend([](const auto& on) {
    const block_config c = small_block();
    const auto parameters = [&](const auto& flat) {
      return block_parameters(c, flat.data_handle());
    };
    const index_t n = block_size(c);
    check("block", [&](auto& a) {
      const auto w = parameters(a.in(n));
      const auto x = a.in(2, 3, 8);
      block_activations<double> saved(c, 2, 3);
      block_forward(on, c, w, x, a.out(2, 3, 8), initial_banks<double>{a.in(16, 8), a.in(16, 8)},
                    saved);
      const auto bank = initial_bank<double>(16, 8, 1, 0);
      auto state = memory_state<double>::make(2, 8, bank, bank);
      block_forward(on, c, w, x, a.out(2, 3, 8), state, saved);
      block_backward(on, c, w, x, a.in(2, 3, 8), saved, parameters(a.out(n)), a.out(2, 3, 8));
    });
    check("model", [&](auto& a) {
      const model_config all{.vocabulary = 4, .layers = 1, .block = c};
      model<double> m(all);
      m.initialise(1);
      model_pass<double> pass(all, 2, 3);
      const auto ids = a.ids(2, 3), targets = a.ids(2, 3);
      auto state = m.initial_state(2);
      pass.forward(on, m, ids, state);
      a.returned(pass.forward(on, m, ids, targets, state));
      pass.forward(on, m, ids, targets, state, a.out(1));
      pass.forward_whole(on, m, ids, targets, a.out(1), true);
      const auto gradients = a.out(index_t(m.parameters().size()));
      pass.backward(on, m, ids, std::span(gradients.data_handle(), m.parameters().size()));
    });
  });
}

TEST_CASE("mutable inputs: arrays themselves", "[components]") {
  const auto near = [](double value) { return Catch::Matchers::WithinRel(value, 1e-14); };
  on_each_backend([&](const auto& on) {
    std::vector<double> g{3, 4}, w(2), m(2), v(2);
    CHECK_THAT(norm2(on, g), near(5));
    std::vector<gradient_clip> clip(1);
    clip_to(on, g, 1, clip.data());
    CHECK_THAT(clip[0].factor, near(0.2));
    adamw(on, std::span(w), g, std::span(m), std::span(v), {.rate = 1, .decay = 0});
    CHECK_THAT(w[0], Catch::Matchers::WithinRel(-1.0, 1e-6));

    std::vector<int> ids{1, 0};
    using matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    std::vector<double> ones(6, 1), rows(6);  // a matrix's own memory no GPU reaches
    Eigen::Map<matrix> table(ones.data(), 2, 3), y(rows.data(), 2, 3);
    ones[5] = 7;
    embedding(on, ids, table, as_view(y));
    CHECK(y(0, 2) == 7);
    CHECK(y(1, 2) == 1);
    CHECK_THAT(cross_entropy(on, table, ids),
               near(0.5 * (std::log(2 + std::exp(6.0)) + std::log(3.0))));

    combine_decay(on, table, {}, as_view(y));
    CHECK_THAT(y(1, 1), near(1 - decay_floor));
  });
}
