// SPDX-License-Identifier: Apache-2.0
// What this build is, what this CPU has, and which file is running: for bug reports, and for
// scripts that must know before they start something long.
//
//   info                        a table
//   info --json                 the same for programs
//   info --require simd,cuda    exit code 2, and what is missing, unless all are usable here
//
// On a CPU that lacks instructions this file was compiled for, nothing of it can run: every call,
// --require too, ends before main with what is missing and exit code 1 (support/cpu.hpp).
//
// smoke: --require reference,simd
#include "build_info.hpp"
#include "support/config.hpp"
#include "support/cpu.hpp"
#include "support/cuda_device.hpp"
#include "support/sha256.hpp"

#include <mmrec/version.hpp>

#include <nlohmann/json.hpp>
#include <xsimd/xsimd.hpp>

#include <chrono>
#include <cstdio>
#include <ctime>
#include <exception>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

namespace {

using namespace mmrec::examples;
using json = nlohmann::ordered_json;

constexpr int missing_exit_code = 2;

/// Whether xsimd found this architecture: by has() from version 13 on, as the best one before.
template <class Cpu, class Arch>
bool found_by_xsimd(const Cpu& cpu, Arch arch) {
  if constexpr (requires { cpu.has(arch); }) {
    return cpu.has(arch);
  } else {
    return arch.version() == cpu.best;
  }
}

/// The widest architecture of xsimd that this CPU can run, whatever this file was compiled for.
std::string best_simd() {
  std::string best;
  xsimd::all_architectures::for_each([&](auto arch) {  // the widest of a family first
    if (best.empty() && found_by_xsimd(xsimd::available_architectures(), arch)) best = arch.name();
  });
  return best;
}

std::string utc_time(std::filesystem::file_time_type when) {
  const auto system =
      std::chrono::time_point_cast<std::chrono::seconds>(std::chrono::file_clock::to_sys(when));
  const std::time_t seconds = std::chrono::system_clock::to_time_t(system);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", std::gmtime(&seconds));
  return text;
}

json collect() {
  json j;
  j["version"] = mmrec::version_string;
  j["git_revision"] = build_info::git_revision;
  j["compiler"] = build_info::compiler;
  j["flags"] = build_info::flags;
  j["build_type"] = build_info::build_type;
  j["backends"] = built_backends;
  j["simd"] = {{"compiled_for", xsimd::default_arch::name()},
               {"floats_per_register", xsimd::batch<float>::size},
               {"best_on_this_cpu", best_simd()}};

  isa_list isa;
  find_isa(isa);
  json compiled = json::array();
  json present = json::array();
  for (int i = 0; i < isa.count; ++i) {
    if (isa.entries[i].compiled) compiled.push_back(isa.entries[i].name);
    if (isa.entries[i].present) present.push_back(isa.entries[i].name);
  }
  j["instruction_sets"] = {
      {"compiled_for", compiled}, {"this_cpu", present}, {"missing", missing_isa(isa)}};
  j["hardware_threads"] = std::thread::hardware_concurrency();
  j["cuda_architectures"] = build_info::cuda_architectures;
  for (const auto& d : build_info::dependencies) j["dependencies"][std::string(d.name)] = d.version;

  const auto binary = std::filesystem::read_symlink("/proc/self/exe");
  j["binary"] = {{"path", binary.string()},
                 {"size", std::filesystem::file_size(binary)},
                 {"modified", utc_time(std::filesystem::last_write_time(binary))},
                 {"sha256", sha256_file(binary)}};
  return j;
}

/// "a b c" for a list, the bare text for a string.
std::string shown(const json& value) {
  if (value.is_string())
    return value.get<std::string>().empty() ? "none" : value.get<std::string>();
  if (!value.is_array()) return value.dump();
  std::string text;
  for (const auto& item : value) text += (text.empty() ? "" : " ") + item.get<std::string>();
  return text.empty() ? "none" : text;
}

void print_table(const json& j) {
  for (const auto& [key, value] : j.items()) {
    if (!value.is_object()) {
      std::printf("%-22s %s\n", key.c_str(), shown(value).c_str());
      continue;
    }
    std::printf("%s\n", key.c_str());
    for (const auto& [name, item] : value.items()) {
      std::printf("  %-20s %s\n", name.c_str(), shown(item).c_str());
    }
  }
}

/// Says what is missing of the backends, one line each.
int require(const std::vector<std::string>& backends) {
  int code = 0;
  for (const std::string& name : backends) {
    try {
      require_backend(name);
      if (name == "simd") require_isa();
#if defined(MMREC_EXAMPLES_CUDA)
      if (name == "cuda") require_cuda_device();
#endif
    } catch (const std::exception& e) {
      std::fprintf(stderr, "missing: %s\n", e.what());
      code = missing_exit_code;
    }
  }
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  return run_program([&] {
    bool as_json = false;
    std::vector<std::string> required;
    CLI::App app("What this build of mmrec is, what this CPU has, and which binary is running.");
    app.add_flag("--json", as_json, "Print JSON");
    app.add_option("--require", required,
                   "Backends that must be usable here; exit code 2 if one is not, and 1 "
                   "(with any options) if this CPU lacks what the program was compiled for")
        ->delimiter(',');
    app.set_version_flag("--version", std::string(mmrec::version_string));
    if (const auto code = parse(app, argc, argv)) return *code;

    const json j = collect();
    if (as_json) {
      std::printf("%s\n", j.dump(2).c_str());
    } else {
      print_table(j);
    }
    return require(required);
  });
}
