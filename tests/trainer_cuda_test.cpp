// SPDX-License-Identifier: Apache-2.0
// The training loop of examples/pretrain on the GPU against the same loop on the CPU. Built with
// MMREC_CUDA only; where there is no device it says so and is skipped, or fails where
// MMREC_REQUIRE_GPU is set.
#include "../examples/support/checkpoint.hpp"
#include "../examples/support/trainer.hpp"

#include "support/catch.hpp"
#include "support/scratch_dir.hpp"
#include "support/tiny_run.hpp"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

using namespace mmrec::examples;

namespace {

void need_gpu() {
  run_options o = tiny_options();
  try {
    make_network({.model = model_config_of(o, 8), .backend = "cuda"});
  } catch (const std::exception& e) {
    const bool required = std::getenv("MMREC_REQUIRE_GPU") != nullptr;
    std::fprintf(stderr, "CUDA tests were not run: %s\n", e.what());
    std::exit(required ? 1 : 77);  // 77: CTest's skipped
  }
}

run_options on(run_options o, const std::string& backend) {
  o.backend = backend;
  return o;
}

std::vector<double> losses_of(const run_options& o, const corpus& text) {
  trainer t(o, text);
  while (t.steps_done() < o.steps) t.step();
  return t.losses();
}

void check_same(const std::vector<double>& found, const std::vector<double>& expected,
                double tolerance) {
  REQUIRE(found.size() == expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    CAPTURE(i, found[i], expected[i]);
    CHECK(std::abs(found[i] - expected[i]) < tolerance);
  }
}

}  // namespace

TEST_CASE("trainer: the GPU follows the CPU's loss for 50 steps", "[components]") {
  need_gpu();
  auto o = tiny_options();
  o.steps = 50;
  const std::string kind = GENERATE(
      as<std::string>{}, "windows, a captured step", "streams, whose memory goes on",
      "dropout, of the same elements in every replay", "accumulation", "pretrain's own model");
  CAPTURE(kind);
  if (kind.starts_with("streams")) o.mode = "streams";
  if (kind.starts_with("dropout")) o.dropout = 0.2;
  if (kind == "accumulation") o.accumulate = 2;
  if (kind.starts_with("pretrain")) {
    const run_options defaults;
    o.convex = defaults.convex, o.mix = defaults.mix, o.mix_gate = defaults.mix_gate;
    o.slow_decay = defaults.slow_decay, o.scaled_residual = defaults.scaled_residual;
    o.rate = defaults.rate, o.decay = defaults.decay, o.memory_block = defaults.memory_block;
  }
  const std::string bytes = tiny_text();
  const corpus text(as_text(bytes), true, o.validation);
  const auto expected = losses_of(on(o, "simd"), text), found = losses_of(on(o, "cuda"), text);
  CHECK(expected.back() < 0.8 * expected.front());
  check_same(found, expected, 1e-3);
  CHECK(losses_of(on(o, "cuda"), text) == found);
}

TEST_CASE("trainer: every element type learns on the GPU", "[components]") {
  need_gpu();
  auto o = on(tiny_options(), "cuda");
  o.dtype = GENERATE(std::string("float"), std::string("double"), std::string("bfloat16"),
                     std::string("half"));
  CAPTURE(o.dtype);
  o.steps = 25;
  const std::string bytes = tiny_text();
  const corpus text(as_text(bytes), true, o.validation);
  const auto losses = losses_of(o, text);
  CHECK(losses.back() < 0.85 * losses.front());
}

TEST_CASE("trainer: checkpoints move between CPU and GPU", "[components]") {
  need_gpu();
  auto o = tiny_options();
  o.steps = 20;
  o.mode = "streams";  // the memory moves too
  const std::string first = GENERATE(std::string("simd"), std::string("cuda"));
  const std::string second = first == "simd" ? "cuda" : "simd";
  CAPTURE(first);
  const std::string bytes = tiny_text();
  const corpus text(as_text(bytes), true, o.validation);
  const scratch_dir dir;
  const std::string file = dir / "model";
  trainer begun(on(o, first), text);
  for (int i = 0; i < 10; ++i) begun.step();
  save_checkpoint(file, begun);
  trainer moved(on(o, second), text);
  checkpoint(file).restore(moved);
  CHECK(digest_of(moved.model()) == digest_of(begun.model()));
  while (begun.steps_done() < o.steps) begun.step(), moved.step();
  check_same(moved.losses(), begun.losses(), 1e-3);
}

TEST_CASE("trainer: long sequences in chunks take constant memory on the GPU", "[long]") {
  need_gpu();
  auto o = on(tiny_options(), "cuda");
  o.mode = "streams";
  o.batch = 1, o.context = 256, o.memory_block = 64;
  const std::int64_t length = GENERATE(std::int64_t{32} << 10, std::int64_t{128} << 10);
  o.steps = length / o.context;
  o.rate = 2e-3;
  std::string bytes = tiny_text();
  while (static_cast<std::int64_t>(bytes.size()) < length + length / 8) bytes += bytes;
  bytes.resize(static_cast<std::size_t>(length + length / 8));
  const corpus text(as_text(bytes), true, o.validation);
  trainer t(o, text);
  for (int i = 0; i < 4; ++i) t.step();
  const double early = t.model().device().held;  // other programs use the device too
  CHECK(early > 0);
  while (t.steps_done() < o.steps) t.step();
  CHECK(t.model().device().held <= early);
  CHECK(t.losses().back() < 0.5 * t.losses().front());
}
