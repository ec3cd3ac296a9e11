// SPDX-License-Identifier: Apache-2.0
// Elementwise functions beside a copy of the same bytes, a loop of the standard library's and
// Eigen's arrays, in one process and in turns.
// smoke: --quick --rounds 1 --seconds 1e-5
//
// The copy is a vector loop that reads and writes as many arrays; a fraction of 1 means that the
// arithmetic is free. 16384 elements stay in the second-level cache, 4194304 do not. --serve is for
// elementwise_table.py: it times one case per line of standard input, so that another process can
// take turns with this one.
#include "support/interleave.hpp"

#include <mmrec/activation.hpp>
#include <mmrec/transform.hpp>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <Eigen/Core>
#include <unsupported/Eigen/SpecialFunctions>

#include <fstream>
#include <iostream>
#include <memory>
#include <random>
#include <sstream>

namespace {

using namespace mmrec;

template <class T>
struct arrays {
  using array = Eigen::Array<T, Eigen::Dynamic, 1>;
  array u, g, y;  // argument, gradient, result

  explicit arrays(index_t n) : u(n), g(n), y(array::Zero(n)) {
    std::minstd_rand random(1);
    std::uniform_real_distribution<float> any(-4, 4);
    for (index_t i = 0; i < n; ++i) u[i] = static_cast<T>(any(random)), g[i] = u[i] / 4;
  }
};

template <class F>
void in_pieces(unsigned threads, index_t n, const F& f) {
  const index_t piece = threads == 1 ? n : 1 << 13;
  simd::parallel_for(threads, (n + piece - 1) / piece,
                     [&](index_t i) { f(i * piece, std::min(piece, n - i * piece)); });
}

/// One function: ours, and on pieces (from, count) what it is compared with.
template <class T>
struct operation {
  std::string name;
  bool backward;
  std::function<void(unsigned)> ours;
  std::function<void(index_t, index_t)> standard, eigen;
};

template <class T>
std::vector<operation<T>> operations(arrays<T>& a) {
  const index_t n = a.u.size();
  const view<const T, 1> u{a.u.data(), {n}}, g{a.g.data(), {n}};
  const view<T, 1> y{a.y.data(), {n}};
  const auto forward = [=](auto f) {
    return [=](unsigned threads) { transform(backend::simd{.threads = threads}, f, y, u); };
  };
  const auto backward = [=]<class A>(A) {
    return [=](unsigned threads) {
      transform(
          backend::simd{.threads = threads},
          []<class V>(const V& d, const V& x) { return d * A::derivative(x); }, y, g, u);
    };
  };
  const auto loop = [&a](auto f) {
    return [&a, f](index_t from, index_t count) {
      for (index_t i = from; i < from + count; ++i) a.y[i] = f(a.u[i], a.g[i]);
    };
  };
  const auto eigen = [&a](auto f) {
    return [&a, f](index_t from, index_t count) {
      f(a.y.segment(from, count), a.u.segment(from, count), a.g.segment(from, count));
    };
  };
  static constexpr T half = T(0.5), root = T(0.70710678118654752440),
                     density = T(0.39894228040143268);
  const auto log_of = [](const auto& v) { return math::log(math::abs(v)); };
  return {
      {"exp", false, forward([](const auto& v) { return math::exp(v); }),
       loop([](T x, T) { return std::exp(x); }),
       eigen([](auto to, auto x, auto) { to = x.exp(); })},
      {"log", false, forward(log_of), loop([](T x, T) { return std::log(std::abs(x)); }),
       eigen([](auto to, auto x, auto) { to = x.abs().log(); })},
      {"sigmoid", false, forward([](const auto& v) { return math::sigmoid(v); }),
       loop([](T x, T) { return 1 / (1 + std::exp(-x)); }),
       eigen([](auto to, auto x, auto) { to = x.logistic(); })},
      {"tanh", false, forward([](const auto& v) { return math::tanh(v); }),
       loop([](T x, T) { return std::tanh(x); }),
       eigen([](auto to, auto x, auto) { to = x.tanh(); })},
      {"silu", false, forward([](const auto& v) { return activation::silu::forward(v); }),
       loop([](T x, T) { return x / (1 + std::exp(-x)); }),
       eigen([](auto to, auto x, auto) { to = x * x.logistic(); })},
      {"gelu", false, forward([](const auto& v) { return activation::gelu::forward(v); }),
       loop([](T x, T) { return x * (half + half * std::erf(x * root)); }),
       eigen([](auto to, auto x, auto) { to = x * (half + half * (x * root).erf()); })},
      {"silu_backward", true, backward(activation::silu{}), loop([](T x, T d) {
         const T s = 1 / (1 + std::exp(-x));
         return d * s * (1 + x * (1 - s));
       }),
       eigen([](auto to, auto x, auto d) {
         to = x.logistic();
         to = d * to * (1 + x * (1 - to));
       })},
      {"gelu_backward", true, backward(activation::gelu{}), loop([](T x, T d) {
         return d * (half + half * std::erf(x * root) + x * density * std::exp(-half * x * x));
       }),
       eigen([](auto to, auto x, auto d) {
         to = d * (half + half * (x * root).erf() + x * density * (-half * x * x).exp());
       })},
  };
}

/// Reads one array or two and writes one, vector by vector.
template <class T>
void copy(arrays<T>& a, bool two, index_t from, index_t count) {
  using V = simd::batch<T, default_simd_arch>;
  constexpr auto w = static_cast<index_t>(V::size);
  const T *u = a.u.data(), *g = a.g.data();
  T* y = a.y.data();
  if (two)
    for (index_t i = from; i < from + count; i += w)
      simd::store_lanes(y + i, simd::load_lanes<V>(u + i) + simd::load_lanes<V>(g + i));
  else
    for (index_t i = from; i < from + count; i += w)
      simd::store_lanes(y + i, simd::load_lanes<V>(u + i));
}

struct settings {
  bench::interleave_options timing;
  std::vector<unsigned> threads;
  std::string filter;
  bool quick = false;
  nlohmann::json rows = nlohmann::json::array();
};

template <class T>
void measure(settings& how, const char* dtype, index_t n) {
  arrays<T> a(n);
  for (const operation<T>& op : operations(a))
    for (const unsigned threads : how.threads) {
      const std::string key = fmt::format("{} {} {} {}", op.name, dtype, n, threads);
      if (key.find(how.filter) == std::string::npos) continue;
      const auto t = bench::interleave({{"ours", [&] { op.ours(threads); }},
                                        {"copy",
                                         [&] {
                                           in_pieces(threads, n, [&](index_t from, index_t count) {
                                             copy(a, op.backward, from, count);
                                           });
                                         }},
                                        {"std", [&] { in_pieces(threads, n, op.standard); }},
                                        {"Eigen", [&] { in_pieces(threads, n, op.eigen); }}},
                                       how.timing);
      const double rate = static_cast<double>(n) / t[0].median * 1e-9;
      const double of_copy = bench::ratio(t[0], t[1]), over_std = bench::ratio(t[0], t[2]),
                   over_eigen = bench::ratio(t[0], t[3]);
      fmt::print("{:14} {:7} {:8} {:8} {:12.3f} {:8.2f} {:9.1f} {:11.2f} {:6.1f}\n", op.name, dtype,
                 n, threads, rate, of_copy, over_std, over_eigen, t[0].spread * 100);
      std::fflush(stdout);
      how.rows.push_back({{"operation", op.name},
                          {"dtype", dtype},
                          {"elements", n},
                          {"threads", threads},
                          {"elements_per_ns", rate},
                          {"of_copy", of_copy},
                          {"over_std", over_std},
                          {"over_eigen", over_eigen},
                          {"spread", t[0].spread}});
    }
}

/// Line protocol: "operation dtype elements threads repeats" -> seconds per call. Repeats 0 asks
/// for the number of calls that fill a millisecond.
template <class T>
bool answer(const std::string& name, std::unique_ptr<arrays<T>>& a, index_t n, unsigned threads,
            long repeats) {
  if (!a || a->u.size() != n) a = std::make_unique<arrays<T>>(n);
  for (const operation<T>& op : operations(*a)) {
    if (op.name != name) continue;
    const auto call = [&] { op.ours(threads); };
    call();
    if (repeats == 0)
      std::cout << bench::repeats_for(call, 1e-3) << std::endl;
    else
      std::cout << bench::seconds_of(call, repeats) / static_cast<double>(repeats) << std::endl;
    return true;
  }
  return false;
}

int serve() {
  std::unique_ptr<arrays<float>> floats;
  std::unique_ptr<arrays<double>> doubles;
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string name, dtype;
    index_t n = 0;
    unsigned threads = 1;
    long repeats = 0;
    const bool read = static_cast<bool>(words >> name >> dtype >> n >> threads >> repeats);
    if (!read || !(dtype == "float" ? answer(name, floats, n, threads, repeats)
                                    : answer(name, doubles, n, threads, repeats)))
      std::cout << R"({"error": "expected: operation dtype elements threads repeats"})"
                << std::endl;
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  settings how;
  std::string json_file;
  bool as_server = false;
  CLI::App app{"Times elementwise functions beside copies, the standard library and Eigen."};
  app.add_option("--rounds", how.timing.rounds, "rounds of turns")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app.add_option("--seconds", how.timing.seconds, "length of one sample")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app.add_option("--threads", how.threads, "thread counts to measure; default: 1 and all");
  app.add_option("--filter", how.filter,
                 "only cases whose line \"operation dtype elements threads\" contains this");
  app.add_option("--json", json_file, "also write the results to this file");
  app.add_flag("--quick", how.quick, "one small size");
  app.add_flag("--serve", as_server, "answer timing requests on standard input");
  CLI11_PARSE(app, argc, argv);
  if (as_server) return serve();
  if (how.threads.empty()) {
    how.threads = {1};
    if (simd::thread_count(0) > 1) how.threads.push_back(simd::thread_count(0));
  }
  fmt::print("{:14} {:7} {:>8} {:>8} {:>12} {:>8} {:>9} {:>11} {:>6}\n", "operation", "dtype",
             "elements", "threads", "elements/ns", "of copy", "over std", "over Eigen", "iqr %");
  const std::vector<index_t> sizes =
      how.quick ? std::vector<index_t>{1 << 10} : std::vector<index_t>{1 << 14, 1 << 22};
  for (const index_t n : sizes) {
    measure<float>(how, "float", n);
    measure<double>(how, "double", n);
  }
  if (!json_file.empty()) {
    std::ofstream file(json_file);
    file << how.rows.dump(1) << "\n";
    if (!file) {
      std::cerr << "elementwise: cannot write " << json_file << "\n";
      return 1;
    }
  }
  return 0;
}
