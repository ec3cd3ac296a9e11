// SPDX-License-Identifier: Apache-2.0
// How exact every primitive is: the largest and the mean error of the reference backend, of the
// simd backend and of PyTorch on the same inputs, against long double.
// smoke: --quick
//
//   accuracy --python /usr/bin/python3 --script bench/accuracy_torch.py --json accuracy.json
//
// Errors are in units of the storage type's epsilon (accuracy/problem.hpp says of what). Without
// --python PyTorch is left out.
#include "accuracy/problem.hpp"

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>

namespace {

using namespace bench::accuracy;
namespace exact = bench::exact;
using json = nlohmann::ordered_json;

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

/// PyTorch's results of all problems, empty where it has none, and its version.
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
    const std::size_t expected = problems[results.size()].expected.size();
    if (!data || (size != 0 && size != expected))
      throw std::runtime_error("accuracy: PyTorch's results have another size: " +
                               problems[results.size()].name);
    results.emplace_back(y.begin(), y.end());
  }
  fs::remove_all(folder);
  return {results, about["version"].get<std::string>()};
}

json rows_of(const std::vector<problem>& problems, const std::vector<exact::array>& torch) {
  json rows = json::array();
  fmt::print("{:34} {:8} {:8} {:>10} {:>10} {:>10}\n", "primitive", "dtype", "unit", "reference",
             "simd", "PyTorch");
  for (std::size_t i = 0; i < problems.size(); ++i) {
    const problem& p = problems[i];
    json row{{"primitive", p.name},
             {"dtype", p.dtype},
             {"relative_to", p.unit == relative_to::element ? "element" : "largest"}};
    std::string shown;
    const auto add = [&](const std::string& whose, const exact::array& actual) {
      const error_size e = error_of(p, actual);
      row[whose + "_max"] = e.largest;
      row[whose + "_mean"] = e.mean;
      shown += fmt::format(" {:10.3g}", e.largest);
    };
    add("reference", p.ours[0]);
    add("simd", p.ours[1]);
    if (i < torch.size() && !torch[i].empty()) add("torch", torch[i]);
    fmt::print("{:34} {:8} {:8}{}\n", p.name, p.dtype, row["relative_to"].get<std::string>(),
               shown);
    rows.push_back(row);
  }
  return rows;
}

constexpr const char* note =
    "Largest and mean error against long double in units of the dtype's epsilon, on inputs that "
    "are "
    "exact in it; 16-bit results are rounded once when they are stored, by half an epsilon at "
    "most. "
    "`d` names gradients; those of scans come after a forward of the same dtype. PyTorch carries "
    "float scans in double. Where it has no operator it runs a loop or a composition of operators "
    "(scans other than cumsum, cumprod and logcumsumexp, RMSNorm, attention, recurrence, decay); "
    "fields are empty where it lacks the dtype. These kernels were compiled with -O1 after the "
    "flags "
    "above.";

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"The errors of every primitive against long double, in units of epsilon."};
  std::string python, script = "bench/accuracy_torch.py", file;
  bool quick = false;
  app.add_option("--python", python, "a Python with PyTorch");
  app.add_option("--script", script, "accuracy_torch.py")->capture_default_str();
  app.add_option("--json", file, "write the results to this file");
  app.add_flag("--quick", quick, "small arrays");
  CLI11_PARSE(app, argc, argv);
  sizes s;
  if (quick) s = {1, 32, 4, 256, 4, 32, 8, 16, 16, 4, 8, 4};
  try {
    std::vector<problem> problems;
    for (const auto add : {add_scans, add_elementwise, add_products, add_rows, add_memory})
      add(problems, s);
    std::vector<exact::array> torch;
    json result;
    if (!python.empty()) {
      std::string version;
      std::tie(torch, version) = torch_results(problems, python, script);
      result["versions"]["PyTorch"] = version;
    }
    result["note"] = note;
    result["rows"] = rows_of(problems, torch);
    if (file.empty()) return 0;
    std::ofstream out(file);
    out << result.dump(1) << "\n";
    if (!out) throw std::runtime_error("accuracy: cannot write " + file);
  } catch (const std::exception& e) {
    std::cerr << e.what() << "\n";
    return 1;
  }
}
