// SPDX-License-Identifier: Apache-2.0
// The training loop of examples/pretrain: it learns, repeats itself bit for bit, and stops when it
// must.
#include "../examples/support/trainer.hpp"
#include "../examples/support/checkpoint.hpp"
#include "../examples/support/sampling.hpp"

#include "support/catch.hpp"
#include "support/message_of.hpp"
#include "support/scratch_dir.hpp"
#include "support/tiny_run.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <vector>

using namespace mmrec::examples;

namespace {

/// What a run of some steps leaves behind.
struct outcome {
  std::vector<double> losses;
  std::string arrays;
  bool operator==(const outcome&) const = default;
};

outcome run(const run_options& o, int steps) {
  const std::string bytes = tiny_text();
  const corpus text(as_text(bytes), o.vocabulary == "compact", o.validation);
  trainer t(o, text);
  for (int i = 0; i < steps; ++i) t.step();
  return {t.losses(), digest_of(t.model())};
}

void poison(network& net, const std::string& name) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const auto& a : net.arrays(false))
    if (a.name == name) std::memcpy(a.bytes.data(), &nan, sizeof nan);
  net.arrays_changed();
}

}  // namespace

TEST_CASE("a model learns a small text", "[components]") {
  auto o = tiny_options();
  o.mode = GENERATE(std::string("windows"), std::string("streams"));
  o.vocabulary = GENERATE(std::string("compact"), std::string("bytes"));
  CAPTURE(o.mode, o.vocabulary);
  o.steps = 150;
  const std::string bytes = tiny_text();
  const corpus text(as_text(bytes), o.vocabulary == "compact", o.validation);
  trainer t(o, text);
  const validation_report before = t.validate(0);
  while (t.steps_done() < o.steps) t.step();
  const validation_report after = t.validate(0);
  const double classes =
      o.vocabulary == "compact" ? static_cast<double>(text.vocabulary.size()) : 256;
  CHECK(std::abs(t.losses().front() - std::log(classes)) < 1);
  CHECK(t.losses().back() < 0.35 * t.losses().front());
  CHECK(after.windows < 0.4 * before.windows);
  CHECK(after.stream < 0.4 * before.stream);
}

TEST_CASE("every backend and element type trains", "[components]") {
  auto o = tiny_options();
  o.backend = GENERATE(std::string("simd"), std::string("reference"));
  o.dtype = GENERATE(std::string("float"), std::string("double"), std::string("bfloat16"),
                     std::string("half"));
  CAPTURE(o.backend, o.dtype);
  o.steps = 25;
  const std::string bytes = tiny_text();
  const corpus text(as_text(bytes), true, o.validation);
  trainer t(o, text);
  while (t.steps_done() < o.steps) t.step();
  CHECK(t.losses().back() < 0.85 * t.losses().front());
  // Parameters and moments of 16-bit runs are kept in float.
  const auto kept = o.dtype == "double" ? tensor_dtype::f64 : tensor_dtype::f32;
  for (const auto& a : t.model().arrays(false)) CHECK(a.type == kept);
}

TEST_CASE("16-bit runs follow the float run", "[components]") {
  auto o = tiny_options();
  const outcome exact = run(o, 20);
  o.dtype = GENERATE(std::string("bfloat16"), std::string("half"));
  CAPTURE(o.dtype);
  const outcome rounded = run(o, 20);
  for (std::size_t i = 0; i < 20; ++i)
    CHECK(std::abs(rounded.losses[i] - exact.losses[i]) < 0.05 * exact.losses[i]);
}

TEST_CASE("two half batches make one batch", "[components]") {
  // With a large epsilon AdamW's step is proportional to the gradient, so the parameters show it.
  const auto o = tiny_options();
  const mmrec::adamw_options linear{.rate = 0.1, .epsilon = 1, .decay = 0, .step = 1};
  const std::string dtype = GENERATE(std::string("double"), std::string("float"));
  const auto make = [&](std::int64_t batch) {
    auto net = make_network({.model = model_config_of(o, 32),
                             .batch = batch,
                             .time = o.context,
                             .dtype = dtype,
                             .threads = 1});
    net->initialise(7);
    return net;
  };
  const auto whole = make(4), half = make(2);
  std::vector<token> inputs(static_cast<std::size_t>(4 * o.context)), targets(inputs.size());
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    inputs[i] = static_cast<token>(i * i % 32);
    targets[i] = static_cast<token>((i + 5) * 3 % 32);
  }
  const auto learn = [](network& net, std::span<const token> x, std::span<const token> next,
                        double scale) {
    net.learn(x, next, {.fresh = true, .scale = scale});
    return net.loss();
  };
  const double loss = learn(*whole, inputs, targets, 1);
  const std::span<const token> in(inputs), out(targets);
  const std::size_t n = inputs.size() / 2;
  const double first = learn(*half, in.first(n), out.first(n), 0.5);
  const double second = learn(*half, in.last(n), out.last(n), 0.5);
  const double eps = dtype == "double" ? 1e-13 : 1e-5;
  CHECK(std::abs(loss - (first + second) / 2) < eps * loss);
  const double norm = whole->update(linear);
  CHECK(std::abs(norm - half->update(linear)) < eps * norm);
  for (const auto& a : whole->arrays(false)) {
    const auto x = values_of(*whole, a.name), y = values_of(*half, a.name);
    REQUIRE(x.size() == y.size());
    for (std::size_t i = 0; i < x.size(); ++i)
      if (!(std::abs(x[i] - y[i]) <= eps)) FAIL(a.name << " " << i << ": " << x[i] << " " << y[i]);
  }
  CHECK(half->update(linear) == 0);  // update() has cleared them
}

TEST_CASE("a run repeats itself bit for bit", "[components]") {
  auto o = tiny_options();
  o.mode = GENERATE(std::string("windows"), std::string("streams"));
  o.backend = GENERATE(std::string("simd"), std::string("reference"));
  o.dropout = 0.1;
  o.accumulate = 2;
  CAPTURE(o.mode, o.backend);
  const int steps = o.backend == "simd" ? 8 : 3;  // plain loops take their time
  const outcome once = run(o, steps);
  SECTION("the same seed") { CHECK(run(o, steps) == once); }
  SECTION("other numbers of threads") {
    for (const std::int64_t threads : {2, 3, 7}) {
      o.threads = threads;
      CHECK(run(o, steps) == once);
    }
  }
  SECTION("another seed is another run") {
    o.seed = 2;
    const outcome other = run(o, steps);
    CHECK(other.losses != once.losses);
    CHECK(other.arrays != once.arrays);
  }
  SECTION("validations and samples on the way change nothing") {
    const std::string bytes = tiny_text();
    const corpus text(as_text(bytes), true, o.validation);
    trainer t(o, text);
    for (int i = 0; i < steps; ++i) {
      t.validate(i % 2 == 0 ? 0 : 50);
      t.model().next(3, i == 0);
      t.step();
    }
    CHECK(outcome{t.losses(), digest_of(t.model())} == once);
  }
}

TEST_CASE("every option of the model changes the run", "[components]") {
  auto o = tiny_options();
  o.slots = 32;  // two at the top of the hierarchy: with one, attention would have no choice
  const outcome plain = run(o, 3);
  const std::map<std::string, std::string> changes = {{"convex", "true"},
                                                      {"output-gate", "true"},
                                                      {"slow-decay", "true"},
                                                      {"mix", "0"},
                                                      {"mix-gate", "false"},
                                                      {"memory-decay", "dpg"},
                                                      {"update", "reference"},
                                                      {"write", "decay"},
                                                      {"activation", "silu"},
                                                      {"norm", "inside"},
                                                      {"dropout", "0.2"},
                                                      {"memory-block", "5"},
                                                      {"inner", "3"},
                                                      {"decay", "0.3"},
                                                      {"decay-vectors", "true"},
                                                      {"scaled-residual", "true"},
                                                      {"clip", "0.01"},
                                                      {"beta1", "0.5"},
                                                      {"beta2", "0.5"},
                                                      {"rate", "0.02"},
                                                      {"warmup", "1"},
                                                      {"mode", "streams"},
                                                      {"heads", "4"},
                                                      {"context", "11"},
                                                      {"vocabulary", "bytes"}};
  for (const auto& [name, value] : changes) {
    CAPTURE(name, value);
    run_options changed = o;
    for (const setting& s : settings_of(changed))
      if (s.name == name) s.set("test", value);
    const outcome other = run(changed, 3);
    CHECK(other.arrays != plain.arrays);
    for (const double loss : other.losses) CHECK(std::isfinite(loss));
  }
  // The same function, solved in another order.
  run_options parallel = o;
  parallel.solver = "parallel";
  CHECK(std::abs(run(parallel, 3).losses[2] - plain.losses[2]) < 1e-4);
}

TEST_CASE("weight decay leaves vectors alone unless asked", "[components]") {
  const bool vectors = GENERATE(false, true);
  auto net = make_network({.model = model_config_of(tiny_options(), 32), .batch = 1, .time = 4});
  net->initialise(3);
  std::map<std::string, std::vector<double>> before;
  for (const auto& a : net->arrays(false)) before[a.name] = values_of(*net, a.name);
  // Without gradients there is decay alone.
  net->update({.rate = 0.5, .decay = 0.5, .step = 1}, {.decay_vectors = vectors});
  for (const auto& a : net->arrays(false)) {
    if (a.name.starts_with("adamw.") || a.name.starts_with("banks.")) continue;
    const double factor = a.shape.size() > 1 || vectors ? 0.75 : 1;
    const auto now = values_of(*net, a.name);
    double error = 0;
    for (std::size_t i = 0; i < now.size(); ++i)
      error = std::max(error, std::abs(now[i] - factor * before[a.name][i]));
    INFO(a.name);
    CHECK(error <= 1e-7);
  }
}

TEST_CASE("a loss that is no number stops the run", "[components][errors]") {
  auto o = tiny_options();
  const std::string bytes = tiny_text();
  const corpus text(as_text(bytes), true, o.validation);
  trainer t(o, text);
  const scratch_dir dir;
  for (int i = 0; i < 3; ++i) t.step();
  save_checkpoint(dir / "good", t);
  const std::string good = dir.read("good");
  poison(t.model(), "blocks.1.ffn.0.weight");
  const auto before = digest_of(t.model(), false);
  CHECK(says(message_of<mmrec::runtime_failure>([&] { t.step(); }), {"loss", "step 4", "nan"}));
  CHECK(digest_of(t.model(), false) == before);  // no update
  CHECK(t.steps_done() == 3);
  CHECK(says(message_of<mmrec::runtime_failure>([&] { save_checkpoint(dir / "good", t); }),
             {"not a finite number", "step 3", "is kept"}));
  CHECK(dir.read("good") == good);
  CHECK(dir.files() == std::vector<std::string>{"good"});
}

TEST_CASE("a gradient that is no number stops the run", "[components][errors]") {
  // Half has no numbers above 65504: a gradient that large is infinite, its loss is not.
  auto o = tiny_options();
  o.dtype = "half";
  const std::string bytes = tiny_text();
  const corpus text(as_text(bytes), true, o.validation);
  trainer t(o, text);
  t.step();
  // Such a weight before the logits makes the loss large, and its gradient larger still.
  for (const auto& a : t.model().arrays(false)) {
    if (a.name != "norm.weight") continue;
    for (std::size_t i = 0; i < a.bytes.size(); i += 4) {
      const float large = 1e4f;
      std::memcpy(a.bytes.data() + i, &large, sizeof large);
    }
  }
  t.model().arrays_changed();
  CHECK(says(message_of<mmrec::runtime_failure>([&] { t.step(); }), {"gradient norm", "step 2"}));
  CHECK(t.steps_done() == 1);
}

TEST_CASE("validation of the stream is the loss of reading it token by token", "[components]") {
  auto o = tiny_options();
  o.dtype = "double";
  o.batch = 1;
  const std::string bytes = tiny_text();
  const corpus text(as_text(bytes), true, o.validation);
  trainer t(o, text);
  for (int i = 0; i < 5; ++i) t.step();
  double total = 0;
  for (std::size_t i = 0; i + 1 < text.validation.size(); ++i) {
    const auto logits = t.model().next(text.validation[i], i == 0);
    double sum = 0;
    for (const double x : logits) sum += std::exp(x);
    total += std::log(sum) - logits[text.validation[i + 1]];
  }
  const double expected = total / static_cast<double>(text.validation.size() - 1);
  CHECK(std::abs(t.validate_stream(0) - expected) < 1e-12);

  // The windows forget: their loss is another one, and with one window per row the same for every
  // batch size.
  const double windows = t.validate_windows(0);
  CHECK(std::abs(windows - expected) > 1e-6);
  for (const std::int64_t rows : {2, 5}) {
    o.batch = rows;
    trainer other(o, text);
    for (const auto& from : t.model().arrays(false))
      for (const auto& to : other.model().arrays(false))
        if (to.name == from.name) std::copy(from.bytes.begin(), from.bytes.end(), to.bytes.begin());
    other.model().arrays_changed();
    CHECK(std::abs(other.validate_windows(0) - windows) < 1e-12);
  }
}

TEST_CASE("the best validation is the lowest, of what the run trains on", "[components]") {
  auto o = tiny_options();
  const std::string bytes = tiny_text();
  const corpus text(as_text(bytes), true, o.validation);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const bool streams : {false, true}) {
    o.mode = streams ? "streams" : "windows";
    trainer t(o, text);
    CHECK(t.best_validation() == nullptr);
    t.validations() = {{1, nan, nan}};
    CHECK(t.best_validation() == nullptr);
    t.validations() = {{1, nan, 4.0}, {2, 3.0, 2.0}, {3, 1.0, 3.0}, {4, 1.0, 2.0}};
    REQUIRE(t.best_validation() != nullptr);
    CHECK(t.best_validation()->step == (streams ? 2 : 3));
  }
}

TEST_CASE("a text without a validation part has no validation loss", "[components]") {
  auto o = tiny_options();
  o.validation = 0;
  const std::string bytes = tiny_text();
  const corpus text(as_text(bytes), true, o.validation);
  trainer t(o, text);
  CHECK(std::isnan(t.validate_windows(0)));
  CHECK(std::isnan(t.validate_stream(0)));
}

TEST_CASE("the vocabulary of a text", "[components][errors]") {
  const std::string bytes(
      "b\xff"
      "a\n"
      "b",
      5);
  const corpus compact(as_text(bytes), true, 0.5);
  CHECK(compact.vocabulary.bytes() == std::vector<std::uint8_t>{'\n', 'a', 'b', 0xff});
  CHECK(compact.ids == std::vector<std::uint8_t>{2, 3, 1, 0, 2});
  CHECK(compact.train.size() == 2);  // ids exist for bytes of the validation part too
  CHECK(says(message_of<mmrec::error>([&] { compact.vocabulary.id('Q'); }),
             {"4 bytes", "0x51", "'Q'"}));
  CHECK(says(message_of<mmrec::error>([&] { compact.vocabulary.id(0); }), {"0x00"}));
  const corpus all(as_text(bytes), false, 0.5);
  CHECK(all.vocabulary.size() == 256);
  CHECK(all.ids == std::vector<std::uint8_t>{'b', 0xff, 'a', '\n', 'b'});
  CHECK(says(message_of<mmrec::error>([] { byte_vocabulary({3, 3}); }), {"once", "3 after 3"}));
  CHECK(says(message_of<mmrec::error>([] { byte_vocabulary(std::vector<std::uint8_t>{}); }),
             {"at least one"}));
}

TEST_CASE("sampling draws what the logits say", "[components][errors]") {
  const std::vector<double> logits{std::log(0.1), std::log(0.6), std::log(0.3)};
  const auto counts = [&](const sampling_options& o, int n) {
    token_sampler draw(o);
    std::vector<int> count(3);
    for (int i = 0; i < n; ++i) ++count[static_cast<std::size_t>(draw(logits))];
    return count;
  };
  CHECK(counts({.temperature = 0}, 50) == std::vector<int>{0, 50, 0});
  const auto plain = counts({.temperature = 1, .seed = 4}, 20000);  // 4 standard deviations
  CHECK(std::abs(plain[0] - 2000) < 170);
  CHECK(std::abs(plain[1] - 12000) < 280);
  const auto two = counts({.temperature = 1, .top_k = 2}, 9000);
  CHECK(two[0] == 0);
  CHECK(std::abs(two[1] - 6000) < 180);
  CHECK(counts({.temperature = 1, .top_k = 1}, 50) == std::vector<int>{0, 50, 0});
  const auto cold = counts({.temperature = 0.5}, 4600);  // 0.01 : 0.36 : 0.09
  CHECK(std::abs(cold[1] - 3600) < 120);
  CHECK(counts({.temperature = 1, .seed = 4}, 20000) == plain);
  CHECK(counts({.temperature = 1, .seed = 5}, 20000) != plain);

  CHECK(
      says(message_of<mmrec::error>([] { token_sampler({.temperature = -1}); }), {"temperature"}));
  CHECK(says(message_of<mmrec::error>([] { token_sampler({.top_k = -1}); }), {"top_k"}));
  token_sampler draw({});
  const std::vector<double> broken{0, std::numeric_limits<double>::quiet_NaN()};
  CHECK_THROWS_AS(draw(broken), mmrec::runtime_failure);
}

TEST_CASE("networks refuse what they cannot do", "[errors]") {
  const auto config = model_config_of(tiny_options(), 32);
  CHECK(says(message_of<mmrec::error>([&] { make_network({.model = config, .dtype = "int8"}); }),
             {"dtype", "int8"}));
  CHECK(says(message_of<mmrec::error>([&] { make_network({.model = config, .backend = "gpu"}); }),
             {"gpu", "no fallback"}));
  CHECK(says(message_of<mmrec::error>([&] { make_network({.model = config, .batch = 0}); }),
             {"batch", "0"}));
  auto net = make_network({.model = config, .batch = 1, .time = 2, .training = false});
  const std::vector<token> two{1, 2}, three{1, 2, 3}, outside{1, 32};
  CHECK(says(message_of<mmrec::error>([&] { net->learn(two, two, {}); }), {"training"}));
  CHECK(says(message_of<mmrec::error>([&] { net->evaluate(three, two, true); }),
             {"inputs", "2 tokens", "3"}));
  CHECK(says(message_of<mmrec::error>([&] { net->evaluate(outside, two, true); }), {"32"}));
  CHECK(says(message_of<mmrec::error>([&] { net->evaluate(two, outside, true); }), {"32"}));
  CHECK_THROWS_AS(net->next(-1), mmrec::error);
}
