// SPDX-License-Identifier: Apache-2.0
// Scans beside a copy of the same bytes, in one process and in turns.
// smoke: --quick --rounds 1 --seconds 1e-5
//
// cumprod and cumsum are measured against memcpy, every other scan against a plain vector loop that
// reads and writes as many arrays. The fraction is the median over the rounds of copy time / scan
// time: 1.0 means that the arithmetic is free. One channel with contiguous time is what
// std::inclusive_scan can do, so there it takes turns too. --serve is for scan_table.py: it times
// one case per line of standard input, so that another process can take turns with this one.
#include "support/interleave.hpp"

#include <mmrec/scan.hpp>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <Eigen/Core>

#include <cstring>
#include <fstream>
#include <iostream>
#include <memory>
#include <numeric>
#include <random>
#include <sstream>

namespace {

using namespace mmrec;

template <class T>
class buffer {
 public:
  buffer() = default;
  buffer(index_t n, const std::function<float()>& value)
      : data_(static_cast<T*>(
            ::operator new(static_cast<std::size_t>(n) * sizeof(T), std::align_val_t{alignment}))) {
    for (index_t i = 0; i < n; ++i) data_.get()[i] = static_cast<T>(value());
  }
  T* get() const { return data_.get(); }

 private:
  static constexpr std::size_t alignment = 4096;
  struct release {
    void operator()(T* p) const { ::operator delete(p, std::align_val_t{alignment}); }
  };
  std::unique_ptr<T, release> data_;
};

/// Time-last arrays are stored (batch * channel, time) and seen as (batch, time, channel).
enum class layout { channel_last, time_last };

struct shape {
  index_t batch, time, channel;
  index_t size() const { return batch * time * channel; }
};

/// The arrays of one case: inputs of the forward, its output, a gradient, and up to two results.
template <class T>
struct arrays {
  shape s;
  layout order;
  buffer<T> a, b, y, g, da, db;

  arrays(const shape& shape_, layout order_) : s(shape_), order(order_) {
    std::minstd_rand random(1);
    std::uniform_real_distribution<float> gate(0.98f, 1.02f), any(-1, 1);
    const auto gates = [&] { return gate(random); };
    const auto values = [&] { return any(random); };
    a = {s.size(), gates}, b = {s.size(), values}, y = {s.size(), gates};
    g = {s.size(), values}, da = {s.size(), values}, db = {s.size(), values};
  }
  view<T, 3> operator()(const buffer<T>& p) const {
    if (order == layout::channel_last) return {p.get(), {s.batch, s.time, s.channel}};
    return view<T, 3>{p.get(), {s.batch, s.channel, s.time}}.permuted({0, 2, 1});
  }
};

/// An array of n elements in pieces of 64 KiB, or one piece on one thread.
template <class F>
void in_pieces(unsigned threads, index_t n, const F& f) {
  const index_t piece = threads == 1 ? n : 1 << 14;
  simd::parallel_for(threads, (n + piece - 1) / piece,
                     [&](index_t i) { f(i * piece, std::min(piece, n - i * piece)); });
}

/// Reads `Reads` arrays and writes `Writes`, vector by vector: the copy that a scan is measured by.
template <std::size_t Reads, std::size_t Writes, class T>
void copy_loop(unsigned threads, index_t n, const std::array<const T*, Reads>& in,
               const std::array<T*, Writes>& out) {
  using V = simd::batch<accumulator_t<T>, default_simd_arch>;
  constexpr auto w = static_cast<index_t>(simd::lanes<V>);
  in_pieces(threads, n, [&](index_t from, index_t count) {
    for (index_t i = from; i < from + count; i += w) {
      V sum = simd::load_lanes<V>(in[0] + i);
      for (std::size_t k = 1; k < Reads; ++k) sum = sum + simd::load_lanes<V>(in[k] + i);
      for (std::size_t k = 0; k < Writes; ++k) simd::store_lanes(out[k] + i, sum);
    }
  });
}

struct operation {
  std::string name;
  std::function<void()> ours, copy;
  int accesses;
  std::function<void()> standard{};  // std::inclusive_scan of the whole array as one sequence
};

template <class T>
std::vector<operation> operations(const arrays<T>& v, unsigned threads) {
  const backend::simd cpu{.threads = threads};
  const index_t n = v.s.size();
  const auto a = v(v.a), b = v(v.b), y = v(v.y), g = v(v.g), da = v(v.da), db = v(v.db);
  const T *ap = v.a.get(), *bp = v.b.get(), *yp = v.y.get(), *gp = v.g.get();
  T *out = v.y.get(), *dap = v.da.get(), *dbp = v.db.get();
  const auto memcpy_ = [=] {
    in_pieces(threads, n, [&](index_t from, index_t count) {
      std::memcpy(static_cast<void*>(out + from), ap + from,
                  static_cast<std::size_t>(count) * sizeof(T));
    });
  };
  using one = std::array<T*, 1>;
  const auto copy_1 = [=] { copy_loop<1, 1, T>(threads, n, {ap}, one{out}); };
  const auto copy_2 = [=] { copy_loop<2, 1, T>(threads, n, {ap, bp}, one{out}); };
  const auto copy_2_back = [=] { copy_loop<2, 1, T>(threads, n, {gp, ap}, one{dap}); };
  const auto copy_1_back = [=] { copy_loop<1, 1, T>(threads, n, {gp}, one{dap}); };
  const auto copy_3 = [=] { copy_loop<3, 1, T>(threads, n, {gp, ap, yp}, one{dap}); };
  const auto copy_3_2 = [=] { copy_loop<3, 2, T>(threads, n, {gp, ap, yp}, {dap, dbp}); };
  return {
      {"cumprod", [=] { cumprod(cpu, a, y); }, memcpy_, 2,
       [=] { std::inclusive_scan(ap, ap + n, out, std::multiplies<T>()); }},
      {"cumsum", [=] { cumsum(cpu, a, y); }, memcpy_, 2,
       [=] { std::inclusive_scan(ap, ap + n, out); }},
      {"linear_scan", [=] { linear_scan(cpu, a, b, y); }, copy_2, 3},
      {"log_cumprod", [=] { log_cumprod(cpu, a, y); }, copy_1, 2},
      {"logcumsumexp", [=] { logcumsumexp(cpu, a, y); }, copy_1, 2},
      {"log_linear_scan", [=] { log_linear_scan(cpu, a, b, y); }, copy_2, 3},
      {"cumsum_backward", [=] { cumsum_backward(cpu, g, da); }, copy_1_back, 2},
      {"cumprod_backward", [=] { cumprod_backward(cpu, g, a, y, da); }, copy_3, 4},
      {"log_cumprod_backward", [=] { log_cumprod_backward(cpu, g, a, da); }, copy_2_back, 3},
      {"logcumsumexp_backward", [=] { logcumsumexp_backward(cpu, g, a, y, da); }, copy_3, 4},
      {"linear_scan_backward", [=] { linear_scan_backward(cpu, g, a, y, {.da = da, .db = db}); },
       copy_3_2, 5},
  };
}

/// Backward needs the output of its own forward in y.
template <class T>
void prepare(const arrays<T>& v, const std::string& name) {
  const backend::simd cpu{};
  if (name.starts_with("cumprod")) cumprod(cpu, v(v.a), v(v.y));
  if (name.starts_with("logcumsumexp")) logcumsumexp(cpu, v(v.a), v(v.y));
  if (name.starts_with("linear")) linear_scan(cpu, v(v.a), v(v.b), v(v.y));
}

struct settings {
  bench::interleave_options timing{.limit = 1.5};
  std::vector<unsigned> threads;
  std::string filter;
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
};

template <class T>
void measure(settings& how, const char* dtype, layout order, const shape& s,
             const std::vector<std::string>& names) {
  const char* order_name = order == layout::channel_last ? "channel-last" : "time-last";
  std::unique_ptr<arrays<T>> v;
  for (const std::string& name : names)
    for (const unsigned threads : how.threads) {
      const std::string key = fmt::format("{} {} {} {}x{}x{} {}", name, dtype, order_name, s.batch,
                                          s.time, s.channel, threads);
      if (key.find(how.filter) == std::string::npos) continue;
      if (!v) v = std::make_unique<arrays<T>>(s, order);
      for (const operation& op : operations(*v, threads)) {
        if (op.name != name) continue;
        prepare(*v, name);
        std::vector<bench::contender> all{{"ours", op.ours}, {"copy", op.copy}};
        if (op.standard && s.batch * s.channel == 1) all.push_back({"std", op.standard});
        const auto r = bench::interleave(all, how.timing);
        const double fraction = bench::ratio(r[0], r[1]);
        const double best = r[1].fastest / r[0].fastest;
        const double rate = op.accesses * static_cast<double>(sizeof(T)) *
                            static_cast<double>(s.size()) / r[0].median * 1e-9;
        fmt::print(
            "{:22} {:8} {:12} {:>14} {:7} {:11.2f} {:11.2f} {:6.1f} {:11.2f} {:8.2f} {:8.2f} "
            "{:8.1f}\n",
            name, dtype, order_name, fmt::format("{}x{}x{}", s.batch, s.time, s.channel), threads,
            r[0].median * 1e6, r[0].fastest * 1e6, r[0].spread * 100, r[1].median * 1e6, fraction,
            best, rate);
        std::fflush(stdout);
        how.rows.push_back({{"operation", name},
                            {"dtype", dtype},
                            {"layout", order_name},
                            {"batch", s.batch},
                            {"time", s.time},
                            {"channel", s.channel},
                            {"threads", threads},
                            {"median_us", r[0].median * 1e6},
                            {"fastest_us", r[0].fastest * 1e6},
                            {"spread", r[0].spread},
                            {"copy_us", r[1].median * 1e6},
                            {"fraction", fraction},
                            {"fraction_of_fastest", best},
                            {"gigabytes_per_second", rate}});
        if (r.size() > 2) {
          how.rows.back()["over_std"] = bench::ratio(r[0], r[2]);
          fmt::print("{:>22} std::inclusive_scan {:11.2f} us, {:.2f} times\n", "",
                     r[2].median * 1e6, bench::ratio(r[0], r[2]));
        }
      }
    }
}

void run_all(settings& how, bool quick) {
  fmt::print("{:22} {:8} {:12} {:>14} {:>7} {:>11} {:>11} {:>6} {:>11} {:>8} {:>8} {:>8}\n",
             "operation", "dtype", "layout", "b x t x c", "threads", "median us", "fastest us",
             "iqr %", "copy us", "fraction", "of best", "GB/s");
  const std::vector<std::string> copies{"cumprod", "cumsum", "linear_scan"};
  const std::vector<std::string> rest{
      "log_cumprod",      "logcumsumexp",         "log_linear_scan",       "cumsum_backward",
      "cumprod_backward", "log_cumprod_backward", "logcumsumexp_backward", "linear_scan_backward"};
  const std::vector<index_t> times =
      quick ? std::vector<index_t>{64} : std::vector<index_t>{64, 256, 1024, 4096, 32768};
  for (const layout order : {layout::channel_last, layout::time_last}) {
    for (const index_t t : times) {
      measure<float>(how, "float", order, {8, t, 64}, copies);
      measure<double>(how, "double", order, {8, t, 64}, copies);
    }
    for (const index_t t : {times.front(), quick ? index_t{64} : index_t{1024}}) {
      measure<float>(how, "float", order, {8, t, 64}, rest);
      measure<double>(how, "double", order, {8, t, 64}, rest);
      measure<Eigen::half>(how, "half", order, {8, t, 64}, copies);
      measure<Eigen::bfloat16>(how, "bfloat16", order, {8, t, 64}, copies);
      measure<Eigen::bfloat16>(how, "bfloat16", order, {8, t, 64}, rest);
    }
  }
  how.threads.resize(1);  // one sequence of one channel is one task
  for (const index_t t : times)
    if (t == times.front() || t >= 1024) {
      measure<float>(how, "float", layout::time_last, {1, t, 1}, {"cumprod", "cumsum"});
      measure<double>(how, "double", layout::time_last, {1, t, 1}, {"cumprod", "cumsum"});
    }
}

/// Line protocol: "name batch time channel threads repeats" -> seconds per call of float arrays.
/// Repeats 0 asks for the number of calls that fill a millisecond.
int serve() {
  std::unique_ptr<arrays<float>> v;
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string name;
    shape s{};
    unsigned threads = 1;
    long repeats = 0;
    if (!(words >> name >> s.batch >> s.time >> s.channel >> threads >> repeats)) {
      std::cout << "error: expected: name batch time channel threads repeats" << std::endl;
      continue;
    }
    if (!v || v->s.batch != s.batch || v->s.time != s.time || v->s.channel != s.channel)
      v = std::make_unique<arrays<float>>(s, layout::channel_last);
    bool known = false;
    for (const operation& op : operations(*v, threads)) {
      if (op.name != name) continue;
      known = true;
      if (repeats == 0) prepare(*v, name);
      op.ours();
      if (repeats == 0)
        std::cout << bench::repeats_for(op.ours, 1e-3) << std::endl;
      else
        std::cout << bench::seconds_of(op.ours, repeats) / static_cast<double>(repeats)
                  << std::endl;
    }
    if (!known) std::cout << "error: unknown operation " << name << std::endl;
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  settings how;
  std::string json_file;
  bool quick = false, as_server = false;
  CLI::App app{"Times mmrec's CPU scans beside copies of the same bytes."};
  app.add_option("--rounds", how.timing.rounds, "rounds of turns")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app.add_option("--seconds", how.timing.seconds, "length of one sample")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app.add_option("--threads", how.threads, "thread counts to measure; default: 1 and all");
  app.add_option("--filter", how.filter,
                 "only cases whose line \"operation dtype layout BxTxC threads\" contains this");
  app.add_option("--json", json_file, "also write the results to this file");
  app.add_flag("--quick", quick, "one small shape");
  app.add_flag("--serve", as_server, "answer timing requests on standard input");
  CLI11_PARSE(app, argc, argv);
  if (as_server) return serve();
  if (how.threads.empty()) {
    how.threads = {1};
    if (simd::thread_count(0) > 1) how.threads.push_back(simd::thread_count(0));
  }
  run_all(how, quick);
  if (!json_file.empty()) {
    std::ofstream file(json_file);
    file << how.rows.dump(1) << "\n";
    if (!file) {
      std::cerr << "scan: cannot write " << json_file << "\n";
      return 1;
    }
  }
  return 0;
}
