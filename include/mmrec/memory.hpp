// SPDX-License-Identifier: Apache-2.0
// Scratch memory. Kernels allocate nothing: what they need for the length of a call comes from the
// backend tag's std::pmr::memory_resource, which is the calling thread's arena unless you pass one.
//
// An arena keeps what it has obtained, so the second of two identical calls obtains nothing:
//
//   mmrec::arena a;
//   mmrec::backend::simd cpu{.threads = 0, .memory = &a};
//   linear_backward(...);  a.capacity();   // the bytes this call needs, and the next one reuses
//
// Arrays that outlive a call (a model's parameters, saved activations, states) lie in the memory
// that their type names: host_memory, or, in a .cu file, device_memory (cuda/memory.cuh).
#pragma once

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <memory>
#include <memory_resource>
#include <new>
#include <vector>

#if __has_include(<sys/mman.h>)
#include <sys/mman.h>
#endif

namespace mmrec {

/// A stack-like resource: memory is returned in the reverse order of its allocation (memory
/// returned out of order is reused once everything above it is returned). Not thread-safe: one per
/// thread.
class arena final : public std::pmr::memory_resource {
 public:
  static constexpr std::size_t alignment = 64;  // a cache line and the widest vector register

  arena() = default;
  arena(const arena&) = delete;
  arena& operator=(const arena&) = delete;

  /// Bytes obtained from the system so far.
  std::size_t capacity() const {
    std::size_t total = 0;
    for (const auto& b : blocks_) total += b.size;
    return total;
  }
  /// Bytes in use now.
  std::size_t used() const { return used_; }

 private:
  /// Large blocks lie on huge pages where the system has them: panels that are streamed through
  /// would miss the page tables' cache otherwise.
  static constexpr std::size_t huge_page = std::size_t{1} << 21;
  static std::align_val_t alignment_of(std::size_t size) {
    return std::align_val_t{size >= huge_page ? huge_page : alignment};
  }
  struct free_aligned {
    std::size_t size;
    void operator()(std::byte* p) const { ::operator delete(p, alignment_of(size)); }
  };
  struct block {
    std::unique_ptr<std::byte, free_aligned> data{nullptr, free_aligned{0}};
    std::size_t size = 0, top = 0, live = 0;
  };

  static std::size_t rounded(std::size_t bytes) {
    return (bytes + alignment - 1) / alignment * alignment;
  }

  void* do_allocate(std::size_t bytes, std::size_t align) override {
    if (align > alignment) throw std::bad_alloc();
    const std::size_t need = rounded(std::max<std::size_t>(bytes, 1));
    // First fit in the order in which blocks were made: the same calls find the same places again.
    auto fit = std::find_if(blocks_.begin(), blocks_.end(),
                            [&](const block& b) { return b.size - b.top >= need; });
    if (fit == blocks_.end()) {
      std::size_t size = std::max(need, std::max<std::size_t>(capacity(), 1u << 16));
      if (used_ == 0 && !blocks_.empty()) {  // all are empty and too small: better one than several
        size = std::max(size, capacity() + need);
        blocks_.clear();
      }
      if (size >= huge_page) size = (size + huge_page - 1) / huge_page * huge_page;  // whole ones
      add_block(size);
      fit = std::prev(blocks_.end());
    }
    block& b = *fit;
    void* p = b.data.get() + b.top;
    b.top += need;
    ++b.live;
    used_ += need;
    return p;
  }

  void do_deallocate(void* p, std::size_t bytes, std::size_t) override {
    const std::size_t need = rounded(std::max<std::size_t>(bytes, 1));
    const auto* address = static_cast<std::byte*>(p);
    for (std::size_t i = blocks_.size(); i-- > 0;) {
      block& b = blocks_[i];
      if (address < b.data.get() || address >= b.data.get() + b.size) continue;
      if (--b.live == 0)
        b.top = 0;
      else if (address + need == b.data.get() + b.top)
        b.top -= need;
      used_ -= need;
      return;
    }
  }

  bool do_is_equal(const std::pmr::memory_resource& other) const noexcept override {
    return this == &other;
  }

  void add_block(std::size_t size) {
    block b;
    b.data = {static_cast<std::byte*>(::operator new(size, alignment_of(size))),
              free_aligned{size}};
    b.size = size;
#if defined(MADV_HUGEPAGE)
    if (size >= huge_page) madvise(b.data.get(), size, MADV_HUGEPAGE);  // advice only
#endif
    blocks_.push_back(std::move(b));
  }

  std::vector<block> blocks_;
  std::size_t used_ = 0;
};

/// The arena a tag uses when it names no memory resource: one per thread.
inline arena* thread_arena() {
  thread_local arena a;
  return &a;
}

/// Uninitialised scratch of n elements for the length of a scope.
template <class T>
class scratch {
 public:
  scratch(std::pmr::memory_resource* memory, std::size_t n)
      : memory_(memory),
        n_(n),
        data_(static_cast<T*>(memory->allocate(n * sizeof(T), arena::alignment))) {}
  ~scratch() { memory_->deallocate(data_, n_ * sizeof(T), arena::alignment); }
  scratch(const scratch&) = delete;
  scratch& operator=(const scratch&) = delete;
  T* data() const { return data_; }
  std::size_t size() const { return n_; }
  T& operator[](std::size_t i) const { return data_[i]; }

 private:
  std::pmr::memory_resource* memory_;
  std::size_t n_;
  T* data_;
};

/// A memory names its owning array: made of a size (zeros) or of host values, copied like a value,
/// with data() and size().
struct host_memory {
  template <class T>
  using array = std::vector<T>;
};
struct device_memory;  // of the current GPU

/// The values of an array, where the host can read them.
template <class T>
const std::vector<T>& on_host(const std::vector<T>& values) {
  return values;
}
/// Puts as many values in the place of those of an array, which keeps its address.
template <class T>
void assign(std::vector<T>& to, const std::vector<T>& values) {
  std::copy(values.begin(), values.end(), to.begin());
}

}  // namespace mmrec
