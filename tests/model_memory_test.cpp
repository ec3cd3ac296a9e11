// SPDX-License-Identifier: Apache-2.0
// What passes of the model cost beside their result: memory obtained, and none of it the second
// time.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <span>
#include <vector>

#include "support/catch.hpp"
#include "support/model_runs.hpp"
#include "support/numeric.hpp"

namespace {

long allocations = 0;  // of this thread and, in tests of one thread, of all

void* counted(std::size_t bytes, std::size_t alignment) {
  ++allocations;
  void* p = std::aligned_alloc(alignment, (bytes / alignment + 1) * alignment);
  if (!p) throw std::bad_alloc();
  return p;
}

}  // namespace

// The other forms end in these. Inlined, the deletes would look to GCC as if free met operator new.
void* operator new(std::size_t n) { return counted(n, alignof(std::max_align_t)); }
void* operator new(std::size_t n, std::align_val_t a) {
  return counted(n, static_cast<std::size_t>(a));
}
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t, std::align_val_t) noexcept {
  std::free(p);
}

using namespace mmrec;
using namespace mmrec::testing;

namespace {

double largest(const std::vector<float>& values) { return max_abs(std::span<const float>(values)); }

}  // namespace

TEST_CASE("model: no pass allocates once its scratch is there", "[components]") {
  const backend::simd backend{.threads = 1};
  const auto check = [&](const model_config& c) {
    const auto m = initialised<float>(c);
    // Training, over several memory blocks, and a token at a time from within one of them.
    const index_t batch = 2, time = 40;
    const auto ids = random_ids(batch * time, c.vocabulary, 1);
    model_pass<float> pass(c, batch, time), step(c, batch, 1);
    std::vector<float> gradients(m.parameters().size());
    auto state = m.initial_state(batch);
    const auto train = [&] {
      m.restart(backend, state, batch);
      pass.forward(backend, m, as_tokens(ids, batch), as_tokens(ids, batch), state, true);
      pass.backward(backend, m, as_tokens(ids, batch), std::span<float>(gradients));
    };
    const auto generate = [&] {
      step.forward(backend, m, view<const std::int32_t, 2>(ids.data(), {batch, 1}), state);
    };
    const auto count = [&](const auto& call) {
      // The first call may end with the blocks of the arena merged into one.
      call(), call();
      const long before = allocations;
      call();
      return allocations - before;
    };
    const auto train_whole = [&] {
      double loss = 0;
      pass.forward_whole(backend, m, as_tokens(ids, batch), as_tokens(ids, batch),
                         view<double, 1>{&loss, {1}}, true);
      pass.backward(backend, m, as_tokens(ids, batch), std::span<float>(gradients));
    };
    CHECK(count(train) == 0);
    CHECK(count(train_whole) == 0);
    CHECK(count(generate) == 0);
  };
  auto c = tiny_model();
  check(c);
  c.block.recurrence.solver = solver::parallel;
  c.block.decay = decay_kind::dpg;
  c.block.output_gate = true;
  check(c);
  c.block.update = update::reference;
  check(c);
}

TEST_CASE("model: whole sequences need no state", "[components]") {
  // What a pass leaves, from a state that begins anew and without one.
  struct outcome {
    double loss = 0;
    std::vector<float> dlogits, gradients, dbanks;
    bool operator==(const outcome&) const = default;
  };
  const auto check = [](const model_config& c, index_t time, const block_dropout& drop) {
    const auto m = initialised<float>(c);
    const index_t batch = 3, bank = batch * c.block.slots * c.block.width;
    const auto ids = random_ids(batch * time, c.vocabulary, 1),
               next = random_ids(batch * time, c.vocabulary, 2);
    const auto in = as_tokens(ids, batch), targets = as_tokens(next, batch);
    model_pass<float> pass(c, batch, time);
    const auto run = [&](unsigned threads, bool whole) {
      const backend::simd backend{.threads = threads};
      outcome o;
      const view<double, 1> loss{&o.loss, {1}};
      if (whole) {
        pass.forward_whole(backend, m, in, targets, loss, true, 0.5, drop);
      } else {
        auto state = m.initial_state(batch);
        pass.forward(backend, m, in, targets, state, loss, true, 0.5, drop);
      }
      o.dlogits = logits_of(pass);
      o.gradients.assign(m.parameters().size(), 0.0f);
      o.dbanks.resize(static_cast<std::size_t>(2 * c.layers * bank));
      std::vector<bank_gradients<float>> dbanks;
      for (index_t i = 0; i < c.layers; ++i) {
        const auto at = [&](index_t which) {
          return view<float, 3>{o.dbanks.data() + (2 * i + which) * bank,
                                {batch, c.block.slots, c.block.width}};
        };
        dbanks.push_back({.keys = at(0), .values = at(1)});
      }
      pass.backward(backend, m, in, std::span<float>(o.gradients), dbanks);
      return o;
    };
    const outcome expected = run(1, false);
    CHECK(run(1, true) == expected);
    CHECK(run(2, true) == expected);
    CHECK(run(1, false) == expected);  // a whole pass leaves nothing behind
  };
  auto c = tiny_model();
  for (const enum update how : {update::stream, update::reference})
    for (const index_t time : {1, 16, 40}) {  // within a memory block, all of one, several
      CAPTURE(static_cast<int>(how), time);
      c.block.update = how;
      c.block.dropout = 0;
      check(c, time, {});
      c.block.dropout = 0.25;
      check(c, time, {.training = true, .seed = 5, .stream = 7});
    }
}

TEST_CASE("model: the second of two equal passes obtains no memory", "[components]") {
  auto c = tiny_model();
  for (const enum solver how : {solver::sequential, solver::parallel}) {
    c.block.recurrence.solver = how;
    const auto m = initialised<float>(c);
    const index_t batch = 2, time = 40;
    const auto ids = random_ids(batch * time, c.vocabulary, 1);
    model_pass<float> pass(c, batch, time);
    std::vector<float> gradients(m.parameters().size());
    arena memory;
    const backend::simd backend{.threads = 1, .memory = &memory};
    const auto step = [&] {
      auto state = m.initial_state(batch);
      pass.forward(backend, m, as_tokens(ids, batch), as_tokens(ids, batch), state, true);
      pass.backward(backend, m, as_tokens(ids, batch), std::span<float>(gradients));
      CHECK(memory.used() == 0);
      return std::array<std::size_t, 2>{memory.capacity(), thread_arena()->capacity()};
    };
    step();
    const auto second = step();  // the first may end with its blocks merged into one
    CHECK(second[0] > 0);
    for (int i = 0; i < 3; ++i) CHECK(step() == second);
  }
}

TEST_CASE("model: 32K tokens in chunks of 512, in constant memory", "[long]") {
  auto c = tiny_model();
  c.block.slots = 64;
  c.block.memory_block = 128;  // 256 blocks: the ring goes round four times
  const auto m = initialised<float>(c);
  const index_t chunk = 512, chunks = 64;
  model_pass<float> pass(c, 1, chunk);
  auto state = m.initial_state(1);
  arena memory;
  const backend::simd backend{.threads = 2, .memory = &memory};
  const auto ids = random_ids(chunk * chunks, c.vocabulary, 6);
  const auto sizes = [&] {
    std::vector<std::size_t> all{memory.capacity(), thread_arena()->capacity()};
    for (const auto& s : state.blocks)
      for (const auto* part : {&s.hidden, &s.keys, &s.values, &s.sum, &s.recent})
        all.push_back(part->capacity());
    return all;
  };
  std::vector<std::size_t> early;
  for (index_t i = 0; i < chunks; ++i) {
    const token_ids part(ids.begin() + i * chunk, ids.begin() + (i + 1) * chunk);
    const double loss = pass.forward(backend, m, as_tokens(part, 1), as_tokens(part, 1), state);
    REQUIRE(std::isfinite(loss));
    const auto logits = logits_of(pass);
    REQUIRE(std::all_of(logits.begin(), logits.end(), [](float v) { return std::isfinite(v); }));
    // A mean of 512 losses whose logits are of order 1 stays near log 23 = 3.1.
    REQUIRE((loss > 0.5 && loss < 10));
    if (i == 1) early = sizes();
    if (i > 1) REQUIRE(sizes() == early);
  }
  for (const auto& s : state.blocks) {
    CHECK(s.tokens == chunk * chunks);
    CHECK(largest(s.hidden) < 1e3);
    CHECK(largest(s.keys) < 1e3);
  }
}
