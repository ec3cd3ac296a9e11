// SPDX-License-Identifier: Apache-2.0
// RMSNorm, attention, cross-entropy and embedding beside a copy of the same bytes, in one process
// and in turns.
// smoke: --quick --rounds 1 --seconds 1e-5
//
// The copy reads as many elements as the module has to read and writes as many as it has to write,
// vector by vector. A fraction of 1 means that the arithmetic is free; attention, whose arithmetic
// grows with its slots, also says its fraction of the multiply-add peak. Of a module with the name
// of another and "_backward" only the backward is timed; cross_entropy_gradient is both in one.
// --serve is for modules_table.py: it times one case per line of standard input, so that another
// process can take turns with this one.
#include "support/interleave.hpp"
#include "support/peak.hpp"

#include <mmrec/attention.hpp>
#include <mmrec/embedding.hpp>
#include <mmrec/loss.hpp>
#include <mmrec/norm.hpp>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <fstream>
#include <iostream>
#include <memory>
#include <random>
#include <sstream>

namespace {

using namespace mmrec;
using json = nlohmann::ordered_json;

constexpr index_t batch = 8, heads = 8, slots = 64, vocabulary = 8192;

/// The arrays of all modules, of `rows` rows. Attention's rows are those of all sequences.
template <class T>
struct arrays {
  index_t rows, width, time;
  std::vector<T> x, g, y, w, dw, keys, values, dkeys, dvalues, probabilities, table, dtable;
  std::vector<std::int64_t> ids;     // of the table
  std::vector<std::int64_t> target;  // below the width: of cross_entropy

  arrays(index_t rows_, index_t width_)
      : rows(rows_),
        width(width_),
        time(rows / batch),
        x(any(rows * width)),
        g(any(rows * width)),
        y(x),
        w(any(width)),
        dw(w),
        keys(any(batch * slots * width)),
        values(any(batch * slots * width)),
        dkeys(keys),
        dvalues(values),
        probabilities(static_cast<std::size_t>(rows * heads * slots), T(1) / slots),
        table(any(vocabulary * width)),
        dtable(table) {
    for (index_t i = 0; i < rows; ++i) {
      ids.push_back(static_cast<std::int64_t>(random_() % vocabulary));
      target.push_back(static_cast<std::int64_t>(random_() % static_cast<unsigned>(width)));
    }
  }

 private:
  std::minstd_rand random_{1};
  std::vector<T> any(index_t n) {
    std::uniform_real_distribution<float> uniform(-1, 1);
    std::vector<T> v(static_cast<std::size_t>(n));
    for (T& e : v) e = static_cast<T>(uniform(random_));
    return v;
  }
};

/// One module: ours, how many elements it has to read and to write, and its multiply-adds.
struct operation {
  std::string name;
  std::function<void(const backend::simd&)> run;
  index_t reads, writes;
  double flops = 0;
};

template <class T>
std::vector<operation> operations(arrays<T>& a) {
  const index_t rows = a.rows, n = a.width, all = rows * n, bank = batch * slots * n;
  const auto matrix = [=](auto& v) { return view<T, 2>{v.data(), {rows, n}}; };
  const auto vector = [=](auto& v) { return view<T, 1>{v.data(), {n}}; };
  const auto sequence = [=, time = a.time](auto& v) {
    return view<T, 3>{v.data(), {batch, time, n}};
  };
  const auto memory = [=](auto& v) { return view<T, 3>{v.data(), {batch, slots, n}}; };
  const view<T, 2> x = matrix(a.x), g = matrix(a.g), y = matrix(a.y);
  const view<T, 1> w = vector(a.w), dw = vector(a.dw);
  const view<T, 3> q = sequence(a.x), go = sequence(a.g), o = sequence(a.y), k = memory(a.keys),
                   v = memory(a.values), dk = memory(a.dkeys), dv = memory(a.dvalues);
  const view<T, 4> p{a.probabilities.data(), {batch, heads, a.time, slots}};
  const view<T, 2> table{a.table.data(), {vocabulary, n}}, dtable{a.dtable.data(), {vocabulary, n}};
  const view<const std::int64_t, 1> ids{a.ids.data(), {rows}}, target{a.target.data(), {rows}};
  const double product = 2.0 * static_cast<double>(all) * static_cast<double>(slots);
  return {
      {"rms_norm", [=](const auto& cpu) { rms_norm(cpu, x, w, y); }, all, all},
      {"rms_norm_backward",
       [=](const auto& cpu) { rms_norm_backward(cpu, g, x, w, {.dx = y, .dw = dw}); }, 2 * all,
       all},
      {"cross_entropy", [=](const auto& cpu) { cross_entropy(cpu, x, target); }, all, 0},
      {"cross_entropy_gradient",
       [=](const auto& cpu) { cross_entropy(cpu, x, target, {.dlogits = y}); }, all, all},
      {"embedding", [=](const auto& cpu) { embedding(cpu, ids, table, y); }, all, all},
      {"embedding_backward", [=](const auto& cpu) { embedding_backward(cpu, g, ids, dtable); },
       2 * all, all},
      {"attention", [=](const auto& cpu) { attention(cpu, q, k, v, heads, o); }, all + 2 * bank,
       all, 2 * product},
      {"attention_backward",
       [=](const auto& cpu) {
         attention_backward(cpu, go, q, k, v, p, heads, {.dq = o, .dk = dk, .dv = dv});
       },
       2 * all + 2 * bank + rows * heads * slots, all + 2 * bank, 4 * product},
  };
}

/// What a copy of the same bytes reads and writes, in pieces for each thread.
template <class T>
class copier {
 public:
  copier(index_t reads, index_t writes, unsigned threads)
      : threads_(threads),
        reads_(reads / pieces() / w * w),
        writes_(writes / pieces() / w * w),
        from_(static_cast<std::size_t>(reads_ * pieces()), T(1)),
        to_(static_cast<std::size_t>(writes_ * pieces())) {}

  void operator()() {
    simd::parallel_for(threads_, pieces(), [this](index_t i) {
      const T* in = from_.data() + i * reads_;
      T* out = to_.data() + i * writes_;
      const index_t both = std::min(reads_, writes_);
      std::array<V, 4> sum;
      sum.fill(V(T(0)));
      for (index_t j = 0; j < both; j += w) simd::store_lanes(out + j, simd::load_lanes<V>(in + j));
      index_t j = both;
      for (; j + 4 * w <= reads_; j += 4 * w)
        for (std::size_t k = 0; k < sum.size(); ++k)
          sum[k] = sum[k] + simd::load_lanes<V>(in + j + static_cast<index_t>(k) * w);
      for (; j < reads_; j += w) sum[0] = sum[0] + simd::load_lanes<V>(in + j);
      volatile T keep = simd::sum(sum[0] + sum[1] + sum[2] + sum[3]);
      static_cast<void>(keep);
    });
  }

 private:
  using V = simd::batch<T, default_simd_arch>;
  static constexpr index_t w = static_cast<index_t>(V::size);
  index_t pieces() const { return threads_ == 1 ? 1 : 8 * static_cast<index_t>(threads_); }

  unsigned threads_;
  index_t reads_, writes_;  // of a piece; a module never writes more than it reads
  std::vector<T> from_, to_;
};

struct settings {
  bench::interleave_options timing{.rounds = 31, .limit = 1};
  std::vector<unsigned> threads;
  std::string filter;
  json rows = json::array();
};

template <class T>
void measure(settings& how, const char* dtype, index_t rows, index_t width) {
  arrays<T> a(rows, width);
  for (const operation& op : operations(a))
    for (const unsigned threads : how.threads) {
      const std::string key = fmt::format("{} {} {} {} {}", op.name, dtype, rows, width, threads);
      if (key.find(how.filter) == std::string::npos) continue;
      copier<T> copy(op.reads, op.writes, threads);
      const bench::fma_peak<T> peak(threads);
      std::vector<bench::contender> all{
          {"ours", [&] { op.run(backend::simd{.threads = threads}); }}, {"copy", [&] { copy(); }}};
      if (op.flops > 0) all.push_back({"peak", peak});
      const auto t = bench::interleave(all, how.timing);
      const double of_copy = bench::ratio(t[0], t[1]);
      const double bytes = static_cast<double>(op.reads + op.writes) * sizeof(T);
      how.rows.push_back({{"operation", op.name},
                          {"dtype", dtype},
                          {"rows", rows},
                          {"width", width},
                          {"threads", threads},
                          {"median_us", t[0].median * 1e6},
                          {"bytes_per_ns", bytes / t[0].median * 1e-9},
                          {"of_copy", of_copy}});
      if (op.flops > 0)
        how.rows.back()["of_peak"] = bench::ratio(t[0], t[2]) * op.flops / peak.flops();
      how.rows.back()["spread"] = t[0].spread;
      fmt::print("{:22} {:7} {:6} {:6} {:7} {:12.2f} {:9.2f} {:8.2f} {:6.1f}\n", op.name, dtype,
                 rows, width, threads, t[0].median * 1e6, bytes / t[0].median * 1e-9, of_copy,
                 t[0].spread * 100);
      std::fflush(stdout);
    }
}

/// Line protocol: "operation dtype rows width threads repeats" -> seconds per call. Repeats 0 asks
/// for the number of calls that fill a millisecond.
template <class T>
bool answer(const std::string& name, std::unique_ptr<arrays<T>>& a, index_t rows, index_t width,
            unsigned threads, long repeats) {
  if (!a || a->rows != rows || a->width != width) a = std::make_unique<arrays<T>>(rows, width);
  for (const operation& op : operations(*a)) {
    if (op.name != name) continue;
    const auto call = [&] { op.run(backend::simd{.threads = threads}); };
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
    index_t rows = 0, width = 0;
    unsigned threads = 1;
    long repeats = 0;
    const bool read =
        static_cast<bool>(words >> name >> dtype >> rows >> width >> threads >> repeats);
    if (!read || !(dtype == "float" ? answer(name, floats, rows, width, threads, repeats)
                                    : answer(name, doubles, rows, width, threads, repeats)))
      std::cout << R"({"error": "expected: operation dtype rows width threads repeats"})"
                << std::endl;
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  settings how;
  std::string json_file;
  bool quick = false, as_server = false;
  CLI::App app{"Times norm, attention, loss and embedding beside copies of the same bytes."};
  app.add_option("--rounds", how.timing.rounds, "rounds of turns")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app.add_option("--seconds", how.timing.seconds, "length of one sample")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app.add_option("--threads", how.threads, "thread counts to measure; default: 1 and all");
  app.add_option("--filter", how.filter,
                 "only cases whose line \"operation dtype rows width threads\" contains this");
  app.add_option("--json", json_file, "also write the results to this file");
  app.add_flag("--quick", quick, "one small size");
  app.add_flag("--serve", as_server, "answer timing requests on standard input");
  CLI11_PARSE(app, argc, argv);
  if (as_server) return serve();
  if (how.threads.empty()) {
    how.threads = {1};
    if (simd::thread_count(0) > 1) how.threads.push_back(simd::thread_count(0));
  }
  fmt::print("{:22} {:7} {:>6} {:>6} {:>7} {:>12} {:>9} {:>8} {:>6}\n", "operation", "dtype",
             "rows", "width", "threads", "us", "bytes/ns", "of copy", "iqr %");
  using size = std::pair<index_t, index_t>;
  for (const auto& [rows, width] :
       quick ? std::vector<size>{{16, 32}} : std::vector<size>{{64, 512}, {8192, 512}}) {
    measure<float>(how, "float", rows, width);
    measure<double>(how, "double", rows, width);
  }
  if (json_file.empty()) return 0;
  std::ofstream file(json_file);
  file << how.rows.dump(1) << "\n";
  if (!file) {
    std::cerr << "modules: cannot write " << json_file << "\n";
    return 1;
  }
}
