// SPDX-License-Identifier: Apache-2.0
// What attention.hpp is composed of: its tasks and their scratch, the softmax of a row, products
// with the rows of a memory.
#pragma once

#include <mmrec/loops.hpp>

#include <array>
#include <mutex>

namespace mmrec::detail {

/// Scratch for the tasks of one worker out of a resource that workers share, which need not be
/// thread-safe: it is asked under a lock, and what it gave is kept for the worker's next task.
class worker_memory final : public std::pmr::memory_resource {
 public:
  worker_memory(std::pmr::memory_resource* shared, std::mutex& turn)
      : shared_(shared), turn_(turn) {}
  worker_memory(const worker_memory&) = delete;
  worker_memory& operator=(const worker_memory&) = delete;
  ~worker_memory() override {
    const std::lock_guard lock(turn_);
    for (std::size_t i = kept_.size(); i-- > 0;)
      if (kept_[i].data) shared_->deallocate(kept_[i].data, kept_[i].size, arena::alignment);
  }

 private:
  struct piece {
    void* data = nullptr;
    std::size_t size = 0;
    bool used = false;
  };

  void* do_allocate(std::size_t size, std::size_t alignment) override {
    if (alignment > arena::alignment) throw std::bad_alloc();
    for (piece& p : kept_)
      if (p.data && !p.used && p.size >= size) return p.used = true, p.data;
    const std::lock_guard lock(turn_);
    void* data = shared_->allocate(size, arena::alignment);
    for (piece& p : kept_)
      if (!p.data) {
        p = {data, size, true};
        break;
      }
    return data;
  }
  void do_deallocate(void* data, std::size_t size, std::size_t) override {
    for (piece& p : kept_)
      if (p.data == data) {
        p.used = false;
        return;
      }
    const std::lock_guard lock(turn_);
    shared_->deallocate(data, size, arena::alignment);
  }
  bool do_is_equal(const std::pmr::memory_resource& other) const noexcept override {
    return this == &other;
  }

  std::pmr::memory_resource* shared_;
  std::mutex& turn_;
  std::array<piece, 16> kept_{};  // more than a task asks for
};

/// f(backend, task) for every task in [0, tasks), with the backend for use inside the task: one
/// thread, and scratch of its own.
template <class B, class F>
void for_each_task(const B& backend, index_t tasks, index_t cost, const F& f) {
  B inner = backend;
  if constexpr (requires { inner.threads; }) inner.threads = 1;
  if (!backend.memory)  // every thread has its arena
    return for_each_row(backend, tasks, cost, [&](index_t task) { f(inner, task); });
  const index_t groups = std::min<index_t>(workers(backend), tasks);
  if (groups == 0) return;
  std::mutex turn;
  for_each_row(backend, groups, cost * ((tasks + groups - 1) / groups), [&](index_t group) {
    worker_memory memory(backend.memory, turn);
    B mine = inner;
    mine.memory = &memory;
    for (index_t task = group; task < tasks; task += groups) f(mine, task);
  });
}

/// Row-wise softmax of scores (rows, n), in place.
template <class V, class Acc>
void softmax_row(Acc* x, index_t n) {
  if (n == 1) {  // exp(0) / exp(0), NaN where the score is not finite
    x[0] = x[0] - x[0] + Acc(1);
    return;
  }
  V most(x[0]);
  Acc largest = x[0];
  for_units<V>(n, [&](index_t j, std::size_t live) {
    if (live == static_cast<std::size_t>(lane_traits<V>::count))
      most = math::maximum(most, load_unit<V>(x + j, live));
    else
      for (index_t k = j; k < n; ++k) largest = math::maximum(largest, x[k]);
  });
  largest = math::maximum(largest, lane_traits<V>::largest(most));
  for_units<V>(n, [&](index_t j, std::size_t live) {
    store_unit(x + j, math::exp(load_unit<V>(x + j, live) - V(largest)), live);
  });
  const Acc inverse = Acc(1) / sum_units<V>(n, [&](index_t j, std::size_t live) {
                        return load_unit<V>(x + j, live);
                      });
  for_units<V>(n, [&](index_t j, std::size_t live) {
    store_unit(x + j, load_unit<V>(x + j, live) * V(inverse), live);
  });
}

// Products with the rows of a memory. Few slots make matrices too thin for the matrix product.
inline constexpr index_t few_slots = 2;

/// store(i, s, lanes, live) of a b^T: rows (rows, d) with slots (slots, d).
template <class Acc, class B, class A, class S, class Store>
void against_slots(const B& backend, const A& rows, const view<S, 2>& slots, const Store& store) {
  using V = lanes_of<B, Acc>;
  if (slots.extent(0) > few_slots)
    return multiply<Acc>(backend, as_operand(backend, rows), as_operand<true>(backend, slots),
                         store);
  for (index_t i = 0; i < rows.extent(0); ++i)
    for (index_t s = 0; s < slots.extent(0); ++s)
      store(i, s,
            V(sum_units<V>(slots.extent(1),
                           [&](index_t j, std::size_t live) {
                             return load_unit<V>(&rows(i, 0) + j, live) *
                                    load_unit<V>(&slots(s, 0) + j, live);
                           })),
            std::size_t{1});
}

/// store(i, j, lanes, live) of a b: weights (rows, slots) of slots (slots, d).
template <class Acc, class B, class S, class Store>
void mix_slots(const B& backend, const view<const Acc, 2>& weights, const view<S, 2>& slots,
               const Store& store) {
  using V = lanes_of<B, Acc>;
  if (slots.extent(0) > few_slots)
    return multiply<Acc>(backend, as_operand(backend, weights), as_operand(backend, slots), store);
  for (index_t i = 0; i < weights.extent(0); ++i)
    for_units<V>(slots.extent(1), [&](index_t j, std::size_t live) {
      V total = math::constant<V>(0);
      for (index_t s = 0; s < slots.extent(0); ++s)
        total = total + V(weights(i, s)) * load_unit<V>(&slots(s, 0) + j, live);
      store(i, j, total, live);
    });
}

/// Head `head` of batch entry b.
template <class T>
view<T, 2> head_of(const view<T, 3>& x, index_t b, index_t head, index_t d) {
  return x.select(0, b).slice(1, head * d, d);
}

}  // namespace mmrec::detail
