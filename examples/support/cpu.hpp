// SPDX-License-Identifier: Apache-2.0
// Stops a program before anything starts when this CPU lacks instructions it was compiled for, or
// when a backend is asked for that this build does not have. Nothing else is run in their place.
//
//   int main() { require_isa(); require_backend(name); ... }
//
// With -march=native the compiler may put such instructions anywhere, static initialisers included.
// So including this header also adds a check that runs before them, and ends the program with a
// message and exit code 1, not with an illegal instruction. It calls nothing but write and _exit.
#pragma once

#include <mmrec/error.hpp>

#include <unistd.h>

#include <cstddef>
#include <string>
#include <string_view>

namespace mmrec::examples {

#if defined(__x86_64__) || defined(__i386__)
// "no-avx": these functions run where AVX may not exist, and everything newer goes with it.
#define MMREC_EXAMPLES_BASELINE [[gnu::target("no-avx")]]
#else
#define MMREC_EXAMPLES_BASELINE
#endif

/// Instruction sets beyond the baseline: whether this file was compiled for them, and whether this
/// CPU and its system have them. On architectures other than x86 the compiler's baseline is what
/// every CPU has, and the list is empty.
struct isa_list {
  struct entry {
    const char* name;  // as GCC and Clang call it: "avx2"
    bool compiled;
    bool present;
  };
  entry entries[24];
  int count;
};

namespace detail {

MMREC_EXAMPLES_BASELINE inline void add_isa(isa_list& list, const char* name, bool compiled,
                                            bool present) {
  list.entries[list.count].name = name;
  list.entries[list.count].compiled = compiled;
  list.entries[list.count].present = present;
  ++list.count;
}

}  // namespace detail

/// The list for the flags of the including file: hence static, since two files may differ in them.
[[maybe_unused]] MMREC_EXAMPLES_BASELINE static void find_isa(isa_list& list) {
  list.count = 0;
#if defined(__x86_64__) || defined(__i386__)
  __builtin_cpu_init();
// A compiler's macro is 1 where the set is compiled for, and its own name elsewhere.
#define MMREC_EXAMPLES_TEXT(macro) #macro
#define MMREC_EXAMPLES_ISA(name, macro)                             \
  detail::add_isa(list, name, MMREC_EXAMPLES_TEXT(macro)[0] == '1', \
                  __builtin_cpu_supports(name) != 0)
  MMREC_EXAMPLES_ISA("sse3", __SSE3__);
  MMREC_EXAMPLES_ISA("ssse3", __SSSE3__);
  MMREC_EXAMPLES_ISA("sse4.1", __SSE4_1__);
  MMREC_EXAMPLES_ISA("sse4.2", __SSE4_2__);
  MMREC_EXAMPLES_ISA("popcnt", __POPCNT__);
  MMREC_EXAMPLES_ISA("avx", __AVX__);
  MMREC_EXAMPLES_ISA("f16c", __F16C__);
  MMREC_EXAMPLES_ISA("fma", __FMA__);
  MMREC_EXAMPLES_ISA("fma4", __FMA4__);
  MMREC_EXAMPLES_ISA("xop", __XOP__);
  MMREC_EXAMPLES_ISA("bmi", __BMI__);
  MMREC_EXAMPLES_ISA("bmi2", __BMI2__);
  MMREC_EXAMPLES_ISA("avx2", __AVX2__);
  MMREC_EXAMPLES_ISA("avx512f", __AVX512F__);
  MMREC_EXAMPLES_ISA("avx512cd", __AVX512CD__);
  MMREC_EXAMPLES_ISA("avx512dq", __AVX512DQ__);
  MMREC_EXAMPLES_ISA("avx512bw", __AVX512BW__);
  MMREC_EXAMPLES_ISA("avx512vl", __AVX512VL__);
  MMREC_EXAMPLES_ISA("avx512vbmi", __AVX512VBMI__);
  MMREC_EXAMPLES_ISA("avx512vnni", __AVX512VNNI__);
  MMREC_EXAMPLES_ISA("avx512bf16", __AVX512BF16__);
  MMREC_EXAMPLES_ISA("avx512fp16", __AVX512FP16__);
#undef MMREC_EXAMPLES_ISA
#undef MMREC_EXAMPLES_TEXT
#endif
}

namespace detail {

MMREC_EXAMPLES_BASELINE inline void say(const char* text) {
  std::size_t length = 0;
  while (text[length] != '\0') ++length;
  if (::write(2, text, length) < 0) ::_exit(1);
}

#if defined(__x86_64__) || defined(__i386__)
// 101 is the first priority that is not reserved: before every static initialiser of the program.
[[gnu::constructor(101), gnu::used]] MMREC_EXAMPLES_BASELINE static void stop_if_isa_is_missing() {
  isa_list list;
  find_isa(list);
  bool missing = false;
  for (int i = 0; i < list.count; ++i) {
    if (!list.entries[i].compiled || list.entries[i].present) continue;
    say(missing ? ", " : "error: this program was compiled for instructions that this CPU lacks: ");
    say(list.entries[i].name);
    missing = true;
  }
  if (!missing) return;
  say(". Build it on this machine, or for an older architecture (-march=x86-64-v2). There is no "
      "fallback.\n");
  ::_exit(1);
}
#endif

}  // namespace detail

/// "avx2, fma": what was compiled for and is absent; empty when all is there.
inline std::string missing_isa(const isa_list& list) {
  std::string names;
  for (int i = 0; i < list.count; ++i) {
    if (!list.entries[i].compiled || list.entries[i].present) continue;
    names += (names.empty() ? "" : ", ") + std::string(list.entries[i].name);
  }
  return names;
}

/// Throws unless this CPU has every instruction set compiled for, by default by the including file.
inline void require_isa(const isa_list& list) {
  if (const std::string missing = missing_isa(list); !missing.empty()) {
    throw error("require_isa", "this CPU", "the instructions this program was compiled for",
                "one without " + missing +
                    "; build it on this machine, or for an older architecture (-march=x86-64-v2); "
                    "there is no fallback");
  }
}

[[maybe_unused]] static void require_isa() {
  isa_list list;
  find_isa(list);
  require_isa(list);
}

/// The backends that a program of this build can run.
#if defined(MMREC_EXAMPLES_CUDA)  // examples/support/CMakeLists.txt
inline constexpr std::string_view built_backends[] = {"reference", "simd", "cuda"};
#else
inline constexpr std::string_view built_backends[] = {"reference", "simd"};
#endif

/// Throws unless the backend is one of this build.
inline void require_backend(std::string_view name) {
  std::string all;
  for (const std::string_view built : built_backends) {
    if (name == built) return;
    all += (all.empty() ? "" : ", ") + std::string(built);
  }
  std::string seen = "'" + std::string(name) + "'";
  if (name == "cuda") {
    seen += ": this build has no CUDA backend (MMREC_CUDA adds it); choose simd for the CPU";
  } else {
    seen += ", which is no backend";
  }
  throw error("require_backend", "backend", "one of this build: " + all,
              seen + "; there is no fallback");
}

}  // namespace mmrec::examples

#undef MMREC_EXAMPLES_BASELINE
