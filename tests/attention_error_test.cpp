// SPDX-License-Identifier: Apache-2.0
// Attention over memory slots: what is refused, and where scratch comes from.
#include <mmrec/attention.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <memory_resource>
#include <string>
#include <thread>
#include <vector>

#include "support/catch.hpp"
#include "support/message_of.hpp"
#include "support/numeric.hpp"
#include "support/on_both_backends.hpp"

using namespace mmrec;
using namespace mmrec::testing;

#if !defined(__CUDACC__)  // the GPU's scratch is another: tests/cuda/runtime_test.cu
namespace {

// A resource that is not thread-safe, and notices when it would have had to be.
class single_file final : public std::pmr::memory_resource {
 public:
  std::size_t requests = 0;
  std::ptrdiff_t live = 0;
  std::atomic<bool> crowded{false};

 private:
  struct turn {
    explicit turn(single_file& r) : resource(r) {
      if (resource.inside_.exchange(true)) resource.crowded = true;
    }
    ~turn() { resource.inside_ = false; }
    single_file& resource;
  };
  void* do_allocate(std::size_t size, std::size_t alignment) override {
    const turn here(*this);
    ++requests, live += static_cast<std::ptrdiff_t>(size);
    return std::pmr::new_delete_resource()->allocate(size, alignment);
  }
  void do_deallocate(void* p, std::size_t size, std::size_t alignment) override {
    const turn here(*this);
    live -= static_cast<std::ptrdiff_t>(size);
    std::pmr::new_delete_resource()->deallocate(p, size, alignment);
  }
  bool do_is_equal(const std::pmr::memory_resource& other) const noexcept override {
    return this == &other;
  }
  std::atomic<bool> inside_{false};
};

}  // namespace

TEST_CASE("attention: scratch comes from the caller's resource alone", "[components]") {
  constexpr index_t batch = 4, time = 50, slots = 20, heads = 4, width = 32;
  const std::array<index_t, 3> tokens{batch, time, width}, bank{batch, slots, width};
  const auto q = random_vector<float>(batch * time * width, 70),
             k = random_vector<float>(batch * slots * width, 71),
             v = random_vector<float>(batch * slots * width, 72);
  const view<const float, 3> query(q.data(), tokens), key(k.data(), bank), value(v.data(), bank);
  // o, dq, dk, dv; the gradient of o is q.
  const auto results = [&](const backend::simd& backend, auto&& between) {
    std::array<std::vector<float>, 4> out{q, q, k, v};
    std::vector<float> p(batch * heads * time * slots);
    const view<float, 4> weights(p.data(), {batch, heads, time, slots});
    attention(backend, query, key, value, heads, view<float, 3>(out[0].data(), tokens),
              {.probabilities = weights});
    between();
    attention_backward(
        backend, query, query, key, value, weights, heads,
        {.dq = {out[1].data(), tokens}, .dk = {out[2].data(), bank}, .dv = {out[3].data(), bank}});
    return out;
  };
  const auto expected = results({}, [] {});
  for (const unsigned threads : {1u, 4u}) {
    single_file memory;
    std::size_t forward = 0, arena = 1;
    std::array<std::vector<float>, 4> out;
    std::thread([&] {  // its arena has seen nothing
      out = results({.threads = threads, .memory = &memory}, [&] { forward = memory.requests; });
      arena = thread_arena()->capacity();
    })
        .join();
    CAPTURE(threads, forward, memory.requests);
    CHECK(out == expected);
    CHECK(forward > 0);
    CHECK(memory.requests > forward);
    // A worker keeps what it has for its next task: without that these 16 tasks ask 16 times.
    CHECK(memory.requests <= 8 * threads);
    CHECK(memory.live == 0);
    CHECK(!memory.crowded);
    CHECK(arena == 0);
  }
}
#endif

TEST_CASE("attention: calls that cannot be right are refused before anything is written",
          "[components][errors]") {
  const auto queries = random_vector<float>(36, 1), bank = random_vector<float>(48, 2);
  const std::array<index_t, 3> tokens{2, 3, 6}, slots{2, 4, 6};
  std::vector<float> o(36, 77), p(48, 77);
  const auto call = [&](const auto& change) {
    view<const float, 3> q(queries.data(), tokens), k(bank.data(), slots), v = k;
    view<float, 3> out(o.data(), tokens);
    attention_options<float> options{.probabilities = {p.data(), {2, 2, 3, 4}}};
    index_t heads = 2;
    change(q, k, v, heads, out, options);
    const auto on = [&](const auto& backend) {
      return message_of<error>([&] { attention(backend, q, k, v, heads, out, options); });
    };
    const auto message = on(tested{});
    CHECK(on(backend::reference{}) == message);
    return message;
  };
  CHECK(says(call([](auto&, auto&, auto&, auto& heads, auto&, auto&) { heads = 4; }),
             {"attention: heads", "divisor of D = 6", "4"}));
  CHECK(says(call([](auto&, auto&, auto&, auto& heads, auto&, auto&) { heads = 0; }),
             {"heads", "positive", "0"}));
  CHECK(says(call([](auto&, auto&, auto&, auto& heads, auto&, auto&) { heads = -2; }),
             {"heads", "-2"}));
  CHECK(says(call([&](auto&, auto& k, auto&, auto&, auto&, auto&) { k = k.slice(0, 0, 1); }),
             {"attention: k", "(2, 4, 6)", "(1, 4, 6)"}));
  CHECK(says(call([](auto&, auto&, auto& v, auto&, auto&, auto&) { v = v.slice(1, 0, 3); }),
             {"attention: v", "(2, 3, 6)"}));
  CHECK(says(call([](auto&, auto& k, auto& v, auto&, auto&, auto& options) {
               k = k.slice(1, 0, 0), v = v.slice(1, 0, 0), options = {};
             }),
             {"slots", "positive"}));
  CHECK(says(call([&](auto&, auto&, auto&, auto&, auto& out, auto&) { out = out.slice(1, 0, 2); }),
             {"attention: o", "(2, 2, 6)"}));
  CHECK(says(call([](auto& q, auto&, auto&, auto&, auto&, auto&) { q = {nullptr, {2, 3, 6}}; }),
             {"attention: q", "null"}));
  CHECK(says(call([](auto&, auto&, auto&, auto&, auto&, auto& options) {
               options.probabilities = options.probabilities.slice(3, 0, 3);
             }),
             {"probabilities", "(2, 2, 3, 4)"}));
  CHECK(says(call([](auto& q, auto&, auto&, auto&, auto& out, auto&) { q = out; }),
             {"attention: o", "q"}));
  CHECK(says(call([&](auto&, auto& k, auto&, auto&, auto&, auto&) {
               k = {k.data_handle(), {2, 4, 6}, {24, 1, 4}};
             }),
             {"unit stride"}));
  CHECK(says(call([&](auto&, auto&, auto&, auto&, auto& out, auto&) {
               out = {out.data_handle(), {2, 3, 6}, {18, 0, 1}};
             }),
             {"attention: o", "its own place"}));
  CHECK(says(call([](auto&, auto&, auto&, auto&, auto&, auto& options) {
               auto& weights = options.probabilities;
               weights = {weights.data_handle(), {2, 2, 3, 4}, {24, 0, 4, 1}};
             }),
             {"attention: probabilities", "its own place"}));
  CHECK(says(call([&](auto& q, auto&, auto&, auto&, auto&, auto&) {
               q = view<const float, 3>(p.data(), {2, 3, 6});
             }),
             {"attention: probabilities", "apart from q"}));
  CHECK(says(call([&](auto&, auto& k, auto&, auto&, auto&, auto&) {
               k = view<const float, 3>(p.data(), {2, 4, 6});
             }),
             {"attention: probabilities", "apart from k"}));
  CHECK(says(call([&](auto&, auto&, auto& v, auto&, auto&, auto&) {
               v = view<const float, 3>(p.data(), {2, 4, 6});
             }),
             {"attention: probabilities", "apart from v"}));
  CHECK(std::all_of(o.begin(), o.end(), [](float x) { return x == 77; }));
  CHECK(std::all_of(p.begin(), p.end(), [](float x) { return x == 77; }));

  // The gradients lie behind one another in `o`; an argument can be put on top of one of them.
  o.assign(36 + 48 + 48, 77);
  const auto backward = [&](const auto& change) {
    view<const float, 3> d_o(queries.data(), tokens), q = d_o, k(bank.data(), slots), v = k;
    view<const float, 4> saved(p.data(), {2, 2, 3, 4});
    index_t heads = 2;
    attention_gradients<float, float> g{.dq = {o.data(), tokens},
                                        .dk = {o.data() + 36, {2, 4, 6}},
                                        .dv = {o.data() + 84, {2, 4, 6}}};
    change(d_o, q, k, v, saved, heads, g);
    const auto on = [&](const auto& backend) {
      return message_of<error>([&] { attention_backward(backend, d_o, q, k, v, saved, heads, g); });
    };
    const auto message = on(tested{});
    CHECK(on(backend::reference{}) == message);
    CHECK(std::all_of(o.begin(), o.end(), [](float x) { return x == 77; }));
    return message;
  };
  const view<float, 3> dk(o.data() + 36, {2, 4, 6}), dv(o.data() + 84, {2, 4, 6});
  CHECK(says(backward([](auto&, auto&, auto&, auto&, auto&, auto& heads, auto&) { heads = 5; }),
             {"attention_backward: heads", "divisor"}));
  CHECK(says(backward([](auto& d_o, auto&...) { d_o = d_o.slice(1, 0, 2); }),
             {"attention_backward: d_o", "(2, 2, 6)"}));
  CHECK(says(backward([&](auto&, auto&, auto& k, auto&...) { k = k.slice(1, 0, 3); }),
             {"attention_backward: v", "(2, 3, 6)", "(2, 4, 6)"}));
  CHECK(says(backward([&](auto&, auto&, auto& k, auto&...) { k = {nullptr, slots}; }),
             {"attention_backward: k", "null"}));
  CHECK(says(backward([](auto&, auto&, auto&, auto& v, auto&...) { v = v.slice(0, 0, 1); }),
             {"attention_backward: v", "(1, 4, 6)"}));
  CHECK(says(backward([](auto&, auto&, auto&, auto&, auto& saved, auto&...) {
               saved = saved.slice(2, 0, 2);
             }),
             {"attention_backward: probabilities"}));
  CHECK(says(backward([](auto&, auto&, auto& k, auto& v, auto& saved, auto&, auto& g) {
               k = k.slice(1, 0, 0), v = v.slice(1, 0, 0), saved = saved.slice(3, 0, 0);
               g.dk = {}, g.dv = {};
             }),
             {"attention_backward: slots", "positive"}));
  const auto gradients = [&](const auto& change) {
    return backward([&](auto&, auto&, auto&, auto&, auto&, auto&, auto& g) { change(g); });
  };
  CHECK(says(gradients([&](auto& g) { g.dk = g.dk.slice(1, 0, 3); }),
             {"attention_backward: dk", "(2, 4, 6)", "(2, 3, 6)"}));
  CHECK(says(gradients([&](auto& g) { g.dv = g.dv.slice(2, 0, 4); }),
             {"attention_backward: dv", "(2, 4, 4)"}));
  CHECK(says(gradients([&](auto& g) { g.dk = {g.dk.data_handle(), {2, 4, 6}, {0, 6, 1}}; }),
             {"attention_backward: dk", "its own place"}));
  CHECK(says(gradients([&](auto& g) { g.dv = {g.dv.data_handle(), {2, 4, 6}, {24, 0, 1}}; }),
             {"attention_backward: dv", "its own place"}));
  CHECK(says(gradients([&](auto& g) { g.dq = {g.dq.data_handle(), {2, 3, 6}, {0, 6, 1}}; }),
             {"attention_backward: dq", "its own place"}));
  CHECK(
      says(gradients([&](auto& g) { g.dv = g.dk; }), {"attention_backward: dk", "apart from dv"}));
  CHECK(says(gradients([&](auto& g) { g.dk = {g.dq.data_handle(), slots}; }),
             {"attention_backward: dq", "apart from dk"}));
  CHECK(says(backward([&](auto& d_o, auto&...) { d_o = {o.data(), tokens}; }),
             {"attention_backward: dq", "apart from d_o"}));
  CHECK(says(backward([&](auto&, auto& q, auto&...) { q = {dk.data_handle(), tokens}; }),
             {"attention_backward: dk", "apart from q"}));
  CHECK(says(backward([&](auto&, auto&, auto& k, auto&...) { k = dk; }),
             {"attention_backward: dk", "apart from k"}));
  CHECK(says(backward([&](auto&, auto&, auto&, auto& v, auto&...) { v = dv; }),
             {"attention_backward: dv", "apart from v"}));
  CHECK(says(backward([&](auto&, auto&, auto&, auto&, auto& saved, auto&...) {
               saved = {dv.data_handle(), {2, 2, 3, 4}};
             }),
             {"attention_backward: dv", "apart from probabilities"}));
}
