// SPDX-License-Identifier: Apache-2.0
// main() of the CUDA tests: where there is no device it says so and exits with 77, which CTest
// reports as skipped, or with 1 where MMREC_REQUIRE_GPU is set. It never passes silently.
#define CATCH_CONFIG_RUNNER
#if __has_include(<catch2/catch_session.hpp>)
#include <catch2/catch_session.hpp>
#else
#include <catch2/catch.hpp>
#endif

#include <cuda_runtime_api.h>

#include <array>
#include <bit>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>

// operator new hands out pinned memory, which host and device address alike, so that the suite's
// arrays need no copies. Blocks of one size class are reused and never returned.
namespace {

class pinned_memory {
 public:
  void start() { started_ = true; }
  void* allocate(std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    if (!started_)
      return std::aligned_alloc(alignment, (bytes + alignment) / alignment * alignment);
    const std::size_t size_class = class_of(bytes);
    void*& head = free_[size_class];
    if (!head) return carve(std::size_t{1} << size_class);
    void* const p = head;
    std::memcpy(&head, p, sizeof head);
    return p;
  }
  void release(void* p) {
    const std::lock_guard lock(mutex_);
    const slab* const s = slab_of(p);
    if (!s) return std::free(p);
    const auto at = static_cast<std::size_t>(static_cast<char*>(p) - s->data) / alignment;
    void*& head = free_[s->classes[at]];
    std::memcpy(p, &head, sizeof head);
    head = p;
  }

 private:
  // To pin memory takes time: most programs need little.
  static constexpr std::size_t alignment = 256, first_slab = std::size_t{1} << 25, slabs = 64;
  struct slab {
    char* data = nullptr;
    std::size_t bytes = 0;
    unsigned char* classes = nullptr;  // of the block that begins at each multiple of alignment
  };
  static std::size_t class_of(std::size_t bytes) {
    return static_cast<std::size_t>(std::bit_width((bytes < alignment ? alignment : bytes) - 1));
  }
  const slab* slab_of(void* p) const {
    for (std::size_t i = 0; i < count_; ++i)
      if (p >= slabs_[i].data && p < slabs_[i].data + slabs_[i].bytes) return &slabs_[i];
    return nullptr;
  }
  void* carve(std::size_t bytes) {
    if (count_ == 0 || top_ + bytes > slabs_[count_ - 1].bytes) {
      if (count_ == slabs) throw std::bad_alloc();
      slab s;
      const std::size_t usual = first_slab << (count_ < 4 ? count_ : 4);
      s.bytes = bytes > usual ? bytes : usual;
      void* data = nullptr;
      if (cudaMallocHost(&data, s.bytes) != cudaSuccess) throw std::bad_alloc();
      s.data = static_cast<char*>(data);
      s.classes = static_cast<unsigned char*>(std::malloc(s.bytes / alignment));
      slabs_[count_++] = s;
      top_ = 0;
    }
    slab& s = slabs_[count_ - 1];
    void* const p = s.data + top_;
    s.classes[top_ / alignment] = static_cast<unsigned char>(std::bit_width(bytes - 1));
    top_ += bytes;
    return p;
  }

  std::mutex mutex_;
  bool started_ = false;
  std::array<void*, 64> free_{};
  std::array<slab, slabs> slabs_{};
  std::size_t count_ = 0, top_ = 0;
};

// In storage that nothing destroys: memory is returned until the very end.
pinned_memory& memory() {
  alignas(pinned_memory) static unsigned char storage[sizeof(pinned_memory)];
  static pinned_memory* const m = new (storage) pinned_memory;
  return *m;
}

}  // namespace

void* operator new(std::size_t n) {
  void* const p = memory().allocate(n);
  if (!p) throw std::bad_alloc();
  return p;
}
void* operator new[](std::size_t n) { return operator new(n); }
void operator delete(void* p) noexcept {
  if (p) memory().release(p);
}
void operator delete[](void* p) noexcept { operator delete(p); }
void operator delete(void* p, std::size_t) noexcept { operator delete(p); }
void operator delete[](void* p, std::size_t) noexcept { operator delete(p); }

int main(int argc, char** argv) {
  bool listing = false;
  for (int i = 1; i < argc; ++i) listing = listing || std::strncmp(argv[i], "--list", 6) == 0;
  int devices = 0;
  if (!listing) {
    const cudaError_t code = cudaGetDeviceCount(&devices);
    if (code != cudaSuccess || devices == 0) {
      std::fprintf(stderr, "CUDA tests were not run: there is no GPU (%s).\n",
                   cudaGetErrorString(code));
      return std::getenv("MMREC_REQUIRE_GPU") ? 1 : 77;
    }
  }
  if (!listing) memory().start();
  return Catch::Session().run(argc, argv);
}
