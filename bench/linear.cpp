// SPDX-License-Identifier: Apache-2.0
// linear with relu, and its backward, beside other libraries' layers, the multiply-add peak and the
// read bandwidth, in one process and in turns, after everybody's results have been compared.
// smoke: --quick
//
// Flops: 2 N I O forward, 4 N I O backward. The peak is that of the arithmetic type, which for
// 16-bit elements is float. of_read is the fraction of a loop that reads as many bytes as W has.
// Peers do the same work (peers/linear_peer.hpp): product, bias and relu, and the gradients of all.
#include "peers/blas_linear.hpp"
#include "peers/eigen_linear.hpp"
#ifdef MMREC_BENCH_ONEDNN
#include "peers/onednn_linear.hpp"
#endif
#include "support/interleave.hpp"
#include "support/peak.hpp"

#include <mmrec/linear.hpp>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <fstream>
#include <functional>
#include <iostream>
#include <limits>
#include <map>
#include <memory>
#include <random>
#include <set>

namespace bench {
/// The bits of a binary16 number.
struct half_bits {
  std::uint16_t bits;
};
}  // namespace bench
template <>
inline constexpr mmrec::format mmrec::storage_format<bench::bfloat16_bits> =
    mmrec::format::bfloat16;
template <>
inline constexpr mmrec::format mmrec::storage_format<bench::half_bits> = mmrec::format::binary16;

namespace {

using namespace mmrec;
using json = nlohmann::ordered_json;

struct shape {
  index_t rows, inputs, outputs;
};

/// The arrays of one layer, and ours bound to them.
template <class T>
struct layer {
  shape size;
  std::vector<T> x, w, bias, dy, y, dx, dw, dbias;

  explicit layer(const shape& s)
      : size(s),
        x(uniform(s.rows * s.inputs)),
        w(uniform(s.outputs * s.inputs)),
        bias(uniform(s.outputs)),
        dy(uniform(s.rows * s.outputs)),
        y(dy.size()),
        dx(x.size()),
        dw(w.size()),
        dbias(bias.size()) {}

  view<const T, 2> weights() const { return {w.data(), {size.outputs, size.inputs}}; }
  template <class W>
  void forward(const backend::simd& cpu, const W& weights) {
    linear<activation::relu>(cpu, view<const T, 2>{x.data(), {size.rows, size.inputs}}, weights,
                             view<T, 2>{y.data(), {size.rows, size.outputs}},
                             {.bias = view<const T, 1>{bias.data(), {size.outputs}}});
  }
  void backward(const backend::simd& cpu) {
    linear_backward<activation::relu>(cpu, view<const T, 2>{dy.data(), {size.rows, size.outputs}},
                                      view<const T, 2>{x.data(), {size.rows, size.inputs}},
                                      weights(),
                                      {.saved = {y.data(), {size.rows, size.outputs}},
                                       .dx = {dx.data(), {size.rows, size.inputs}},
                                       .dw = {dw.data(), {size.outputs, size.inputs}},
                                       .dbias = {dbias.data(), {size.outputs}}});
  }
  bench::linear_problem<T> problem(unsigned threads) {
    return {.rows = size.rows,
            .inputs = size.inputs,
            .outputs = size.outputs,
            .threads = static_cast<int>(threads),
            .x = x.data(),
            .w = w.data(),
            .bias = bias.data(),
            .dy = dy.data(),
            .y = y.data(),
            .dx = dx.data(),
            .dw = dw.data(),
            .dbias = dbias.data()};
  }

 private:
  static std::vector<T> uniform(index_t n) {
    static std::mt19937 engine(1);  // one for all: arrays must not be alike
    std::uniform_real_distribution<float> any(-1, 1);
    std::vector<T> v(static_cast<std::size_t>(n));
    for (T& element : v) store_element(&element, any(engine));
    return v;
  }
};

/// Eigen's products, with the loops that make a layer of them.
bench::linear_peer eigen_linear(const char* name, const bench::eigen_peer& eigen,
                                const bench::linear_problem<float>& p) {
  const auto du =
      std::make_shared<std::vector<float>>(static_cast<std::size_t>(p.rows * p.outputs));
  const auto w = std::make_shared<std::vector<float>>(p.w, p.w + p.outputs * p.inputs);
  return {name,
          [=] {
            eigen.forward(p.x, w->data(), p.y, p.rows, p.inputs, p.outputs, p.threads);
            for (long i = 0; i < p.rows; ++i)
              for (long j = 0; j < p.outputs; ++j) {
                const float u = p.y[i * p.outputs + j] + p.bias[j];
                p.y[i * p.outputs + j] = u < 0 ? 0 : u;
              }
          },
          [=] {
            float* const g = du->data();
            std::fill_n(p.dbias, p.outputs, 0.0f);
            for (long i = 0; i < p.rows; ++i)
              for (long j = 0; j < p.outputs; ++j) {
                const long at = i * p.outputs + j;
                g[at] = p.y[at] > 0 ? p.dy[at] : 0;
                p.dbias[j] += g[at];
              }
            eigen.backward(g, p.x, w->data(), p.dx, p.dw, p.rows, p.inputs, p.outputs, p.threads);
          }};
}

template <class T>
std::vector<bench::linear_peer> peers_of(const bench::linear_problem<T>& p,
                                         std::set<std::string>& all_missing) {
  std::vector<bench::linear_peer> peers;
  std::vector<std::string> missing;
  const auto add = [&](const auto& more) { peers.insert(peers.end(), more.begin(), more.end()); };
#ifdef MMREC_BENCH_ONEDNN
  if constexpr (requires { bench::onednn_linear(p); }) add(bench::onednn_linear(p));
#else
  missing.push_back("oneDNN");
#endif
  if constexpr (requires { bench::blas_linear(p, &missing); }) add(bench::blas_linear(p, &missing));
  if constexpr (requires { eigen_linear("", bench::eigen_native, p); })
    add(std::array{eigen_linear("Eigen, native", bench::eigen_native, p),
                   eigen_linear("Eigen, AVX2", bench::eigen_avx2, p)});
  all_missing.insert(missing.begin(), missing.end());
  return peers;
}

/// "over_onednn_packed" of "oneDNN 2.6.3, packed weights"; versions and kernels are told elsewhere.
std::string measure_of(const std::string& peer) {
  std::string name = "over_" + peer.substr(0, peer.find_first_of(" ,"));
  for (const char* kind : {"packed", "native", "AVX2"})
    if (peer.find(kind) != std::string::npos) name += std::string("_") + kind;
  for (char& c : name) c = static_cast<char>(std::tolower(c));
  return name;
}

/// Ends the program where two results differ by more than rounding: factors are in (-1, 1), an
/// element is a sum of `terms` products, and storage rounds once.
template <class T>
void expect_same(const std::string& who, const std::vector<T>& ours, const std::vector<T>& theirs,
                 index_t terms) {
  using Acc = accumulator_t<T>;
  const Acc epsilon = std::numeric_limits<Acc>::epsilon();
  const Acc storage = storage_format<T> == format::bfloat16   ? Acc(0x1p-7)
                      : storage_format<T> == format::binary16 ? Acc(0x1p-10)
                                                              : epsilon;
  for (std::size_t i = 0; i < ours.size(); ++i) {
    const Acc a = load_element<Acc>(&ours[i]), b = load_element<Acc>(&theirs[i]);
    if (std::abs(a - b) <= epsilon * static_cast<Acc>(terms) + storage * std::abs(a)) continue;
    std::cerr << fmt::format("linear: {}: {} instead of {}\n", who, b, a);
    std::exit(1);
  }
}

/// Everybody's results against ours, those of packed weights included.
template <class T, class Packed>
void check(layer<T>& own, layer<T>& other, const backend::simd& cpu, const Packed& packed,
           const std::vector<bench::linear_peer>& peers) {
  const auto [rows, inputs, outputs] = own.size;
  own.forward(cpu, own.weights());
  own.backward(cpu);
  const auto forget = [&] {  // nobody is right with what another one wrote
    for (auto* result : {&other.y, &other.dx, &other.dw, &other.dbias})
      std::fill(result->begin(), result->end(), T{});
  };
  forget();
  other.forward(cpu, packed);
  expect_same("packed weights", own.y, other.y, inputs);
  for (const auto& peer : peers) {
    forget();
    peer.forward();
    expect_same(peer.name + ", y", own.y, other.y, inputs);
    other.y = own.y;  // where u is almost 0 rounding decides; the gradients shall not differ by it
    if (!peer.backward) continue;
    peer.backward();
    expect_same(peer.name + ", dx", own.dx, other.dx, outputs);
    expect_same(peer.name + ", dw", own.dw, other.dw, rows);
    expect_same(peer.name + ", dbias", own.dbias, other.dbias, rows);
  }
}

struct proof {
  // Threads of OpenMP and OpenBLAS spin for milliseconds after their work: rest until they sleep.
  bench::interleave_options timing{
      .rounds = 41, .seconds = 1e-3, .limit = 1, .rest = 0.01, .warm = 4e-3};
  std::vector<unsigned> threads;
  std::string filter;
  json rows = json::array();
  std::map<std::string, std::string> versions;
  std::set<std::string> missing;
};

struct subject {
  std::string weights;
  std::function<void(const backend::simd&)> run;
};

/// One pass of one layer: ours, ours on one thread, peers and what the machine can do take turns.
template <class T>
void take_turns(proof& run, const std::string& pass, const json& keys, const shape& size,
                unsigned threads, const std::vector<subject>& ours,
                const std::vector<bench::linear_peer>& peers) {
  const bool forward = pass == "forward", reads = forward && size.rows <= 8;
  const double flops =
      (forward ? 2.0 : 4.0) * static_cast<double>(size.rows * size.inputs * size.outputs);
  const bench::fma_peak<accumulator_t<T>> peak(threads);
  std::vector<bench::contender> all;
  for (const unsigned n : std::set<unsigned, std::greater<>>{threads, 1u})
    for (const auto& own : ours)
      all.push_back({own.weights, [&own, n] { own.run(backend::simd{.threads = n}); }});
  const std::size_t one_thread = all.size() - ours.size(), first_peer = all.size();
  for (const auto& peer : peers) all.push_back({peer.name, forward ? peer.forward : peer.backward});
  const std::size_t at_peak = all.size();
  all.push_back({"peak", peak});
  if (reads)
    all.push_back(
        {"read", bench::read_peak(static_cast<std::size_t>(size.inputs * size.outputs) * sizeof(T),
                                  threads)});
  auto timing = run.timing;
  if (threads == 1) timing.rest = timing.warm = 0;
  const auto t = bench::interleave(all, timing);
  for (std::size_t i = 0; i < ours.size(); ++i) {
    json row{{"pass", pass}};
    row.update(keys);
    row["weights"] = ours[i].weights;
    row["gflops"] = flops / t[i].median / 1e9;
    row["of_peak"] = bench::ratio(t[i], t[at_peak]) * flops / peak.flops();
    if (reads) row["of_read"] = bench::ratio(t[i], t.back());
    row["over_one_thread"] = bench::ratio(t[i], t[one_thread + i]);
    json over;
    double best = std::numeric_limits<double>::infinity();
    for (std::size_t k = first_peer; k < at_peak; ++k) {
      const double ratio = bench::ratio(t[i], t[k]);
      over[measure_of(t[k].name)] = ratio;
      best = std::min(best, ratio);
    }
    if (!peers.empty()) row["over_best"] = best, row.update(over);
    row["spread"] = t[i].spread;
    run.rows.push_back(row);
    for (const auto& [name, value] : row.items())
      fmt::print("{}{} ", value.is_number_float() ? name + " " : "",
                 value.is_number_float() ? fmt::format("{:.2f}", value.template get<double>())
                 : value.is_string()     ? value.template get<std::string>()
                                         : value.dump());
    fmt::print("\n");
    std::fflush(stdout);
  }
}

/// Both passes of one layer with one number of threads.
template <class T>
void measure(proof& run, const std::string& dtype, layer<T>& own, layer<T>& other,
             unsigned threads) {
  const shape size = own.size;
  const json keys{{"dtype", dtype},
                  {"rows", size.rows},
                  {"inputs", size.inputs},
                  {"outputs", size.outputs},
                  {"threads", threads}};
  const auto wanted = [&](const char* pass) {
    return fmt::format("{} {} {} {} {} {}", pass, dtype, size.rows, size.inputs, size.outputs,
                       threads)
               .find(run.filter) != std::string::npos;
  };
  if (!wanted("forward") && !wanted("backward")) return;
  const packed_weights packed(backend::simd{.threads = threads}, own.weights());
  const auto peers = peers_of(other.problem(threads), run.missing);
  for (const auto& [name, forward, backward] : peers)
    if (const auto at = name.find(' '); name[at - 1] != ',')  // "oneDNN 2.6.3"
      run.versions.emplace(name.substr(0, at), name.substr(at + 1));
  check(own, other, backend::simd{.threads = threads}, packed, peers);
  if (wanted("forward"))
    take_turns<T>(run, "forward", keys, size, threads,
                  {{"plain", [&](const auto& cpu) { own.forward(cpu, own.weights()); }},
                   {"packed", [&](const auto& cpu) { own.forward(cpu, packed); }}},
                  peers);
  if (wanted("backward"))
    take_turns<T>(run, "backward", keys, size, threads,
                  {{"plain", [&](const auto& cpu) { own.backward(cpu); }}}, peers);
}

template <class T>
void measure(proof& run, const std::string& dtype, const std::vector<shape>& shapes) {
  for (const shape& size : shapes) {
    layer<T> own(size), other = own;
    for (const unsigned threads : run.threads) measure(run, dtype, own, other, threads);
  }
}

/// What the reader of the table has to know.
std::string note(const proof& run) {
  std::string text =
      "`of_peak`: of the multiply-add peak of the arithmetic type (float for 16-bit elements). "
      "`of_read`: of a loop that reads as many bytes as W has. `over_`: how many times faster than "
      "that peer; `over_best`: than the fastest one. All in the same rounds.";
#if defined(__AVX512BF16__)
  const bench::fma_peak<float> fma(1);
  const bench::bf16_dot_peak dot(1);
  const auto t = bench::interleave({{"dot", dot}, {"fma", fma}}, {.rounds = 21});
  text += fmt::format(
      " The bfloat16 dot product (vdpbf16ps) has {:.2f} times the float multiply-add peak here, "
      "{:.0f} GFLOP/s on one thread: products of two bfloat16 factors use it.",
      bench::ratio(t[0], t[1]) * dot.flops() / fma.flops(), dot.flops() / t[0].median / 1e9);
#endif
  for (const auto& name : run.missing) text += fmt::format(" {} is not installed here.", name);
  return text;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"linear beside other libraries, the multiply-add peak and the read bandwidth"};
  proof run;
  bool quick = false;
  std::string file;
  app.add_flag("--quick", quick, "one round of small shapes, mostly to see that results agree");
  app.add_option("--rounds", run.timing.rounds, "at most")->capture_default_str();
  app.add_option("--limit", run.timing.limit, "seconds of the rounds of one case, three at least")
      ->capture_default_str();
  app.add_option("--rest", run.timing.rest, "seconds of sleep before each turn on several threads")
      ->capture_default_str();
  app.add_option("--filter", run.filter,
                 "only cases whose line \"pass dtype rows inputs outputs threads\" contains this");
  app.add_option("--json", file, "write the results to this file");
  CLI11_PARSE(app, argc, argv);
  std::vector<shape> shapes{{1, 2048, 2048}, {2, 2048, 2048}, {4, 2048, 2048},   {8, 2048, 2048},
                            {32, 256, 512},  {128, 512, 512}, {1024, 2048, 2048}};
  if (quick) shapes = {{1, 256, 512}, {32, 256, 512}}, run.timing = {.rounds = 1, .seconds = 1e-5};
  run.threads = {1};
  if (simd::thread_count(0) > 1) run.threads.push_back(simd::thread_count(0));
  measure<float>(run, "float", shapes);
  measure<double>(run, "double", shapes);
  measure<bench::bfloat16_bits>(run, "bfloat16", shapes);
  measure<bench::half_bits>(run, "half", shapes);
  json rows = json::array();
  for (const char* pass : {"forward", "backward"})
    for (const json& row : run.rows)
      if (row["pass"] == pass) rows.push_back(row);
  if (!file.empty())
    std::ofstream(file)
        << json{{"rows", rows}, {"versions", run.versions}, {"note", note(run)}}.dump(1) << "\n";
}
