// SPDX-License-Identifier: Apache-2.0
// How exact every primitive is: the largest and the mean error of the reference backend, of the
// simd backend and of PyTorch on the same inputs, against long double.
// smoke: --quick
//
//   accuracy --python /usr/bin/python3 --script bench/accuracy_torch.py --output bench/results
//
// Errors are in units of the element type's epsilon, relative to the element itself where a result
// can be small only by its own right (exp, products), and to the largest element of the result
// where it is a sum that may cancel. Without --python PyTorch is left out.
#include "support/exact.hpp"

#include <mmrec/mmrec.hpp>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <random>

namespace {

using namespace mmrec;
namespace exact = bench::exact;
using exact::at;
using exact::given;
using exact::real;

enum class relative_to { element, array };

/// One primitive on one set of inputs, which are exact in the element type.
struct problem {
  std::string name, dtype;
  relative_to unit;
  double epsilon;
  std::vector<std::vector<index_t>> shapes;
  std::vector<given> inputs;
  exact::array expected;
  std::array<exact::array, 2> ours;  // reference, simd
};

struct sizes {
  index_t batch = 4, time = 2048, channel = 16;    // scans
  index_t elements = 1 << 16;                      // elementwise
  index_t rows = 64, in = 512, out = 128;          // linear, norm
  index_t classes = 1000, slots = 128, heads = 4;  // cross-entropy, attention
};

template <class T>
class collection {
 public:
  collection(std::vector<problem>& problems, const char* dtype) : all_(problems), dtype_(dtype) {}

  given uniform(index_t n, double low, double high) {
    std::uniform_real_distribution<double> any(low, high);
    given x(at(n));
    for (double& v : x) v = static_cast<double>(static_cast<T>(any(random_)));
    return x;
  }
  /// `compute` is called with a backend, the inputs as arrays of T, and the result to write.
  template <class F>
  void add(const std::string& name, relative_to unit, std::vector<std::vector<index_t>> shapes,
           std::vector<given> inputs, exact::array expected, const F& compute) {
    std::vector<std::vector<T>> x;
    for (const given& input : inputs) x.emplace_back(input.begin(), input.end());
    problem p{name,
              dtype_,
              unit,
              std::numeric_limits<T>::epsilon(),
              std::move(shapes),
              std::move(inputs),
              std::move(expected),
              {}};
    const auto run = [&](const auto& backend, exact::array& to) {
      std::vector<T> y(p.expected.size());
      compute(backend, x, y.data());
      to.assign(y.begin(), y.end());
    };
    run(backend::reference{}, p.ours[0]);
    run(backend::simd{}, p.ours[1]);
    all_.push_back(std::move(p));
  }

 private:
  std::vector<problem>& all_;
  std::string dtype_;
  std::mt19937_64 random_{7};
};

template <class T>
void add_scans(collection<T>& all, const sizes& s) {
  const std::vector<index_t> shape{s.batch, s.time, s.channel};
  const index_t n = s.batch * s.time * s.channel;
  const auto seen = [s](auto* p) {
    return view<std::remove_pointer_t<decltype(p)>, 3>{p, {s.batch, s.time, s.channel}};
  };
  const auto scan = [&](real start, const auto& step) {
    return exact::scan(s.batch, s.time, s.channel, start, step);
  };
  const auto along = relative_to::array;
  const real none = -std::numeric_limits<real>::infinity();
  const given any = all.uniform(n, -1, 1), near_one = all.uniform(n, 0.98, 1.02),
              gate = all.uniform(n, 0.8, 1), log_gate = all.uniform(n, -0.2, 0);
  all.add("cumsum", along, {shape}, {any},
          scan(0, [&](real h, std::size_t i) { return h + any[i]; }),
          [&](const auto& on, const auto& x, T* y) { cumsum(on, seen(x[0].data()), seen(y)); });
  all.add("cumprod", relative_to::element, {shape}, {near_one},
          scan(1, [&](real h, std::size_t i) { return h * near_one[i]; }),
          [&](const auto& on, const auto& x, T* y) { cumprod(on, seen(x[0].data()), seen(y)); });
  all.add(
      "log_cumprod", along, {shape}, {gate},
      scan(0, [&](real h, std::size_t i) { return h + std::log(real(gate[i])); }),
      [&](const auto& on, const auto& x, T* y) { log_cumprod(on, seen(x[0].data()), seen(y)); });
  all.add(
      "logcumsumexp", along, {shape}, {any},
      scan(none, [&](real h, std::size_t i) { return exact::log_add_exp(h, any[i]); }),
      [&](const auto& on, const auto& x, T* y) { logcumsumexp(on, seen(x[0].data()), seen(y)); });
  all.add("linear_scan", along, {shape, shape}, {gate, any},
          scan(0, [&](real h, std::size_t i) { return gate[i] * h + any[i]; }),
          [&](const auto& on, const auto& x, T* y) {
            linear_scan(on, seen(x[0].data()), seen(x[1].data()), seen(y));
          });
  all.add("log_linear_scan", along, {shape, shape}, {log_gate, any},
          scan(none,
               [&](real h, std::size_t i) { return exact::log_add_exp(h + log_gate[i], any[i]); }),
          [&](const auto& on, const auto& x, T* y) {
            log_linear_scan(on, seen(x[0].data()), seen(x[1].data()), seen(y));
          });
}

template <class T>
void add_elementwise(collection<T>& all, const sizes& s) {
  const given wide = all.uniform(s.elements, -20, 20), near = all.uniform(s.elements, -6, 6),
              positive = all.uniform(s.elements, 0, 8);
  const auto add = [&](const std::string& name, relative_to unit, const given& x,
                       const std::function<real(real)>& f, auto ours) {
    all.add(name, unit, {{s.elements}}, {x}, exact::map(x, f),
            [&](const auto& on, const auto& in, T* y) {
              transform(on, ours, view<T, 1>{y, {s.elements}},
                        view<const T, 1>{in[0].data(), {s.elements}});
            });
  };
  const auto element = relative_to::element;
  using namespace activation;
  add(
      "exp", element, wide, [](real x) { return std::exp(x); },
      [](const auto& v) { return math::exp(v); });
  add(
      "log", element, positive, [](real x) { return std::log(x); },
      [](const auto& v) { return math::log(v); });
  add(
      "log1p", element, positive, [](real x) { return std::log1p(x); },
      [](const auto& v) { return math::log1p(v); });
  add("sigmoid", element, wide, exact::sigmoid, [](const auto& v) { return math::sigmoid(v); });
  add(
      "tanh", element, near, [](real x) { return std::tanh(x); },
      [](const auto& v) { return math::tanh(v); });
  add(
      "erf", element, near, [](real x) { return std::erf(x); },
      [](const auto& v) { return math::erf(v); });
  add(
      "gelu", element, near, [](real x) { return x * exact::normal(x); },
      [](const auto& v) { return gelu::forward(v); });
  add(
      "silu", element, wide, [](real x) { return x * exact::sigmoid(x); },
      [](const auto& v) { return silu::forward(v); });
  add(
      "gelu derivative", relative_to::array, near,
      [](real x) { return exact::normal(x) + x * exact::normal_density(x); },
      [](const auto& v) { return gelu::derivative(v); });
  add(
      "silu derivative", relative_to::array, wide,
      [](real x) { return exact::sigmoid(x) + x * exact::sigmoid_slope(x); },
      [](const auto& v) { return silu::derivative(v); });
}

template <class T>
void add_products(collection<T>& all, const sizes& s) {
  const index_t n = s.rows, in = s.in, out = s.out;
  const given x = all.uniform(n * in, -1, 1), w = all.uniform(out * in, -0.1, 0.1),
              g = all.uniform(n * out, -1, 1);
  const auto X = [&](index_t i, index_t j) { return real(x[at(i * in + j)]); };
  const auto W = [&](index_t i, index_t j) { return real(w[at(i * in + j)]); };
  const auto G = [&](index_t i, index_t j) { return real(g[at(i * out + j)]); };
  const auto turned = [](const auto& f) { return [&f](index_t i, index_t j) { return f(j, i); }; };
  const auto matrix = [](auto* p, index_t rows, index_t columns) {
    return view<std::remove_pointer_t<decltype(p)>, 2>{p, {rows, columns}};
  };
  const auto along = relative_to::array;
  all.add("linear", along, {{n, in}, {out, in}}, {x, w}, exact::product(n, out, in, X, turned(W)),
          [&](const auto& on, const auto& a, T* y) {
            linear(on, matrix(a[0].data(), n, in), matrix(a[1].data(), out, in), matrix(y, n, out));
          });
  const auto backward = [&](const std::string& name, const exact::array& expected, auto target) {
    all.add(name, along, {{n, out}, {n, in}, {out, in}}, {g, x, w}, expected,
            [&](const auto& on, const auto& a, T* y) {
              linear_gradients<T> to;
              target(to, y);
              linear_backward(on, matrix(a[0].data(), n, out), matrix(a[1].data(), n, in),
                              matrix(a[2].data(), out, in), to);
            });
  };
  backward("linear dx", exact::product(n, in, out, G, W),
           [&](auto& to, T* y) { to.dx = matrix(y, n, in); });
  backward("linear dw", exact::product(out, in, n, turned(G), X),
           [&](auto& to, T* y) { to.dw = matrix(y, out, in); });
  backward("linear dbias",
           exact::product(
               1, out, n, [](index_t, index_t) { return real(1); }, G),
           [&](auto& to, T* y) { to.dbias = {y, {out}}; });
}

template <class T>
void add_rows(collection<T>& all, const sizes& s) {
  const index_t n = s.rows, d = s.in;
  const auto matrix = [](auto* p, index_t rows, index_t columns) {
    return view<std::remove_pointer_t<decltype(p)>, 2>{p, {rows, columns}};
  };
  const given x = all.uniform(n * d, -2, 2), w = all.uniform(d, 0.5, 1.5),
              g = all.uniform(n * d, -1, 1);
  all.add("rms_norm", relative_to::element, {{n, d}, {d}}, {x, w}, exact::rms_norm(x, w, 1e-6L),
          [&](const auto& on, const auto& a, T* y) {
            rms_norm(on, matrix(a[0].data(), n, d), view<const T, 1>{a[1].data(), {d}},
                     matrix(y, n, d));
          });
  all.add("rms_norm dx", relative_to::array, {{n, d}, {n, d}, {d}}, {g, x, w},
          exact::rms_norm_backward(g, x, w, 1e-6L), [&](const auto& on, const auto& a, T* y) {
            rms_norm_backward(on, matrix(a[0].data(), n, d), matrix(a[1].data(), n, d),
                              view<const T, 1>{a[2].data(), {d}}, {.dx = matrix(y, n, d)});
          });

  const given logits = all.uniform(n * s.classes, -8, 8);
  std::vector<std::int64_t> classes;
  for (index_t i = 0; i < n; ++i) classes.push_back(i * 37 % s.classes);
  const given targets(classes.begin(), classes.end());
  const auto [loss, slope] = exact::cross_entropy(logits, classes);
  const view<const std::int64_t, 1> ids{classes.data(), {n}};
  all.add("cross_entropy", relative_to::element, {{n, s.classes}, {n}}, {logits, targets}, {loss},
          [&](const auto& on, const auto& a, T* y) {
            *y = static_cast<T>(cross_entropy(on, matrix(a[0].data(), n, s.classes), ids));
          });
  all.add("cross_entropy dlogits", relative_to::array, {{n, s.classes}, {n}}, {logits, targets},
          slope, [&](const auto& on, const auto& a, T* y) {
            cross_entropy(on, matrix(a[0].data(), n, s.classes), ids,
                          {.dlogits = matrix(y, n, s.classes)});
          });

  const index_t batch = 2, time = 32, width = 64, slots = s.slots;
  const given q = all.uniform(batch * time * width, -2, 2),
              k = all.uniform(batch * slots * width, -2, 2),
              v = all.uniform(batch * slots * width, -1, 1);
  all.add("attention", relative_to::array,
          {{batch, time, width}, {batch, slots, width}, {batch, slots, width}}, {q, k, v},
          exact::attention(q, k, v, batch, time, slots, width, s.heads),
          [&](const auto& on, const auto& a, T* y) {
            const view<const T, 3> keys{a[1].data(), {batch, slots, width}},
                values{a[2].data(), {batch, slots, width}};
            attention(on, view<const T, 3>{a[0].data(), {batch, time, width}}, keys, values,
                      s.heads, view<T, 3>{y, {batch, time, width}});
          });
}

struct error_size {
  double largest = 0, mean = 0;
};

error_size error_of(const problem& p, const exact::array& actual) {
  real unit = 0, sum = 0, largest = 0;
  for (const real v : p.expected) unit = std::max(unit, std::abs(v));
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const real scale = p.unit == relative_to::element ? std::abs(p.expected[i]) : unit;
    const real error = std::abs(actual[i] - p.expected[i]);
    if (error == 0) continue;
    largest = std::max(largest, error / scale / p.epsilon);
    sum += error / scale / p.epsilon;
  }
  return {static_cast<double>(largest),
          static_cast<double>(sum / static_cast<real>(std::max<std::size_t>(1, actual.size())))};
}

/// PyTorch's results of all problems, and its version.
std::pair<std::vector<exact::array>, std::string> torch_results(
    const std::vector<problem>& problems, const std::string& python, const std::string& script) {
  namespace fs = std::filesystem;
  const fs::path folder =
      fs::temp_directory_path() / fmt::format("mmrec_accuracy_{}", std::random_device{}());
  fs::create_directories(folder);
  nlohmann::json cases = nlohmann::json::array();
  std::ofstream inputs(folder / "inputs.bin", std::ios::binary);
  for (const problem& p : problems) {
    cases.push_back({{"primitive", p.name}, {"dtype", p.dtype}, {"shapes", p.shapes}});
    for (const given& x : p.inputs)
      inputs.write(reinterpret_cast<const char*>(x.data()),
                   static_cast<std::streamsize>(x.size() * sizeof(double)));
  }
  inputs.close();
  std::ofstream(folder / "cases.json") << cases.dump();
  const std::string command = fmt::format("'{}' '{}' '{}'", python, script, folder.string());
  if (std::system(command.c_str()) != 0) throw std::runtime_error("failed: " + command);
  const auto about = nlohmann::json::parse(std::ifstream(folder / "results.json"));
  std::ifstream data(folder / "results.bin", std::ios::binary);
  std::vector<exact::array> results;
  for (const std::size_t size : about["sizes"]) {
    given y(size);
    data.read(reinterpret_cast<char*>(y.data()),
              static_cast<std::streamsize>(size * sizeof(double)));
    if (!data || size != problems[results.size()].expected.size())
      throw std::runtime_error("accuracy: PyTorch's results have another size: " +
                               problems[results.size()].name);
    results.emplace_back(y.begin(), y.end());
  }
  fs::remove_all(folder);
  return {results, about["version"].get<std::string>()};
}

void report(const std::vector<problem>& problems, const std::vector<exact::array>& torch,
            const std::string& about, const std::string& output) {
  std::string table = about +
                      "\n\n| primitive | dtype | relative to | reference max | mean | simd max | "
                      "mean | PyTorch max | mean |\n|---|---|---|---:|---:|---:|---:|---:|---:|\n";
  nlohmann::json rows = nlohmann::json::array();
  for (std::size_t i = 0; i < problems.size(); ++i) {
    const problem& p = problems[i];
    const char* unit = p.unit == relative_to::element ? "element" : "largest";
    table += fmt::format("| {} | {} | {} |", p.name, p.dtype, unit);
    nlohmann::json row{{"primitive", p.name}, {"dtype", p.dtype}, {"relative_to", unit}};
    const auto add = [&](const std::string& whose, const exact::array& actual) {
      const error_size e = error_of(p, actual);
      table += fmt::format(" {:.3g} | {:.2g} |", e.largest, e.mean);
      row[whose + "_max"] = e.largest;
      row[whose + "_mean"] = e.mean;
    };
    add("reference", p.ours[0]);
    add("simd", p.ours[1]);
    if (torch.empty())
      table += " | |";
    else
      add("torch", torch[i]);
    table += "\n";
    rows.push_back(row);
  }
  std::cout << table;
  if (output.empty()) return;
  std::ofstream(output + "/accuracy.md") << table;
  std::ofstream json(output + "/accuracy.json");
  json << nlohmann::json{{"benchmark", "accuracy"}, {"about", about}, {"rows", rows}}.dump(1)
       << "\n";
  if (!json) throw std::runtime_error("accuracy: cannot write to " + output);
}

template <class T>
void add_all(std::vector<problem>& problems, const char* dtype, const sizes& s) {
  collection<T> all(problems, dtype);
  add_scans(all, s);
  add_elementwise(all, s);
  add_products(all, s);
  add_rows(all, s);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"The errors of every primitive against long double, in units of epsilon."};
  std::string python, script = "bench/accuracy_torch.py", output;
  bool quick = false;
  app.add_option("--python", python, "a Python with PyTorch");
  app.add_option("--script", script, "accuracy_torch.py")->capture_default_str();
  app.add_option("--output", output, "folder for accuracy.md and accuracy.json");
  app.add_flag("--quick", quick, "small arrays");
  CLI11_PARSE(app, argc, argv);
  sizes s;
  if (quick) s = {1, 32, 4, 256, 4, 32, 8, 16, 8, 4};
  try {
    std::vector<problem> problems;
    add_all<float>(problems, "float32", s);
    add_all<double>(problems, "float64", s);
    std::vector<exact::array> torch;
    std::string about = "Errors in units of the dtype's epsilon against long double";
    if (!python.empty()) {
      std::string version;
      std::tie(torch, version) = torch_results(problems, python, script);
      about += "; PyTorch " + version + ", which carries float scans in double";
    }
    report(problems, torch, about + ".", output);
  } catch (const std::exception& e) {
    std::cerr << e.what() << "\n";
    return 1;
  }
  return 0;
}
