// SPDX-License-Identifier: Apache-2.0
#include "blas_linear.hpp"

#include <dlfcn.h>

#include <cstdlib>
#include <memory>

// Before Linux 2.6-era C libraries, and under AddressSanitizer, there is no deep binding:
// RTLD_LOCAL alone then has to do, which it does as long as the program itself links to no BLAS.
#if !defined(RTLD_DEEPBIND) || defined(__SANITIZE_ADDRESS__)
#undef RTLD_DEEPBIND
#define RTLD_DEEPBIND 0
#endif

namespace bench {
namespace {

enum order { row_major = 101 };
enum transpose { plain = 111, transposed = 112 };

/// Of 32-bit integers, as both Debian builds are.
struct blas {
  void (*gemm)(order, transpose, transpose, int, int, int, float, const float*, int, const float*,
               int, float, float*, int);
  void (*gemv)(order, transpose, int, int, float, const float*, int, const float*, int, float,
               float*, int);
  void (*ger)(order, int, int, float, const float*, int, const float*, int, float*, int);
  std::function<void(int)> set_threads;
  std::string name;
};

/// Releases older than an Intel CPU do not know its model number and fall back to SSE3 or AVX2.
/// Unless the user has chosen, choose what they would take if they did.
void choose_kernels() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!__builtin_cpu_is("intel") || !__builtin_cpu_supports("avx512bw")) return;
  const bool bf16 = __builtin_cpu_supports("avx512bf16");
  setenv("OPENBLAS_CORETYPE", bf16 ? "Cooperlake" : "SkylakeX", 0);
  setenv("BLIS_ARCH_TYPE", "skx", 0);
#endif
}

template <class F>
F symbol(void* library, const char* name) {
  return reinterpret_cast<F>(dlsym(library, name));
}

/// Null if the library is not there. Loaded once, and never unloaded: its threads live on.
std::shared_ptr<blas> load(const char* title, const char* file) {
  choose_kernels();
  void* library = dlopen(file, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
  if (!library) return nullptr;
  auto b = std::make_shared<blas>();
  b->gemm = symbol<decltype(b->gemm)>(library, "cblas_sgemm");
  b->gemv = symbol<decltype(b->gemv)>(library, "cblas_sgemv");
  b->ger = symbol<decltype(b->ger)>(library, "cblas_sger");
  if (!b->gemm || !b->gemv || !b->ger) return nullptr;
  b->name = title;
  if (const auto set = symbol<void (*)(int)>(library, "openblas_set_num_threads")) {
    b->set_threads = set;
    const auto config = symbol<char* (*)()>(library, "openblas_get_config");
    const auto core = symbol<char* (*)()>(library, "openblas_get_corename");
    const std::string text = config ? config() : title;  // "OpenBLAS 0.3.21 NO_LAPACKE ..."
    b->name = text.substr(0, text.find(' ', text.find(' ') + 1));
    if (core) b->name += std::string(", ") + core() + " kernels";
  } else if (const auto set_long = symbol<void (*)(long)>(library, "bli_thread_set_num_threads")) {
    b->set_threads = [set_long](int n) { set_long(n); };
    if (const auto init = symbol<void (*)()>(library, "bli_init")) init();  // before any question
    const auto version = symbol<const char* (*)()>(library, "bli_info_get_version_str");
    const auto id = symbol<int (*)()>(library, "bli_arch_query_id");
    const auto name = symbol<const char* (*)(int)>(library, "bli_arch_string");
    if (version) b->name += std::string(" ") + version();
    if (id && name) b->name += std::string(", ") + name(id()) + " kernels";
  }
  return b;
}

linear_peer peer_of(const std::shared_ptr<blas>& b, const linear_problem<float>& p) {
  const int n = static_cast<int>(p.rows), k = static_cast<int>(p.inputs),
            m = static_cast<int>(p.outputs);
  const auto own_w = std::make_shared<std::vector<float>>(p.w, p.w + p.outputs * p.inputs);
  const auto use_threads = [b, threads = p.threads] {
    if (b->set_threads) b->set_threads(threads);
  };
  const auto forward = [=] {
    use_threads();
    const float* const w = own_w->data();
    if (n == 1)
      b->gemv(row_major, plain, m, k, 1, w, k, p.x, 1, 0, p.y, 1);
    else
      b->gemm(row_major, plain, transposed, n, m, k, 1, p.x, k, w, k, 0, p.y, m);
    for (long i = 0; i < p.rows; ++i)
      for (long j = 0; j < p.outputs; ++j) {
        float& y = p.y[i * p.outputs + j];
        y = y + p.bias[j];
        y = y < 0 ? 0 : y;
      }
  };
  const auto du =
      std::make_shared<std::vector<float>>(static_cast<std::size_t>(p.rows * p.outputs));
  const auto backward = [=] {
    use_threads();
    const float* const w = own_w->data();
    float* const g = du->data();
    for (long j = 0; j < p.outputs; ++j) p.dbias[j] = 0;
    for (long i = 0; i < p.rows; ++i)
      for (long j = 0; j < p.outputs; ++j) {
        const long at = i * p.outputs + j;
        g[at] = p.y[at] > 0 ? p.dy[at] : 0;
        p.dbias[j] += g[at];
      }
    if (n == 1) {
      b->gemv(row_major, transposed, m, k, 1, w, k, g, 1, 0, p.dx, 1);
      for (long i = 0; i < p.inputs * p.outputs; ++i) p.dw[i] = 0;
      b->ger(row_major, m, k, 1, g, 1, p.x, 1, p.dw, k);
    } else {
      b->gemm(row_major, plain, plain, n, k, m, 1, g, m, w, k, 0, p.dx, k);
      b->gemm(row_major, transposed, plain, m, k, n, 1, g, m, p.x, k, 0, p.dw, k);
    }
  };
  return {b->name, forward, backward};
}

}  // namespace

std::vector<linear_peer> blas_linear(const linear_problem<float>& p,
                                     std::vector<std::string>* missing) {
  static const std::pair<const char*, std::shared_ptr<blas>> libraries[] = {
      {"OpenBLAS", load("OpenBLAS", "libopenblas.so.0")}, {"BLIS", load("BLIS", "libblis.so.4")}};
  std::vector<linear_peer> peers;
  for (const auto& [title, library] : libraries) {
    if (library) peers.push_back(peer_of(library, p));
    if (!library && missing) missing->push_back(title);
  }
  return peers;
}

}  // namespace bench
