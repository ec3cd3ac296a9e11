// SPDX-License-Identifier: Apache-2.0
// The safetensors reader and writer: against an independent implementation (a Python script that
// knows the format and shares no code), against files that violate the format, and against damage.
#include "../examples/support/safetensors.hpp"

#include <Eigen/Core>

#include "support/catch.hpp"
#include "support/message_of.hpp"
#include "support/scratch_dir.hpp"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <vector>

using namespace mmrec::examples;

namespace {

/// A file in the format from its parts.
std::string make_file(std::string_view header, std::string_view data = {}) {
  const std::uint64_t length = header.size();
  std::string file(sizeof length, '\0');
  std::memcpy(file.data(), &length, sizeof length);
  return file.append(header).append(data);
}

/// Why the reader refuses a file with these contents. The message names the file in any case.
std::string refusal(std::string_view contents) {
  const scratch_dir dir;
  dir.write("bad.safetensors", contents);
  const auto message = message_of<mmrec::error>([&] { safetensors_file(dir / "bad.safetensors"); });
  CHECK(says(message, {"safetensors_file: path", "bad.safetensors'"}));
  return message;
}

std::string one_tensor(std::string_view fields) { return "{\"t\":{" + std::string(fields) + "}}"; }

template <class T>
std::vector<T> values_of(const safetensors_file& file, std::string_view name) {
  std::vector<T> values(file.at(name).data.size() / sizeof(T));
  file.copy_to(name, file.at(name).shape, std::span(values));
  return values;
}

const std::vector<float> weights = {1.5f, -2.25f, 0.0f, -0.0f, 3e38f, 1e-45f};
const std::vector<std::int64_t> steps = {-1, std::numeric_limits<std::int64_t>::max()};
const std::vector<std::uint8_t> bytes = {0, 127, 255};

/// A file of several dtypes, a scalar and an empty tensor, names and values outside ASCII included.
void write_example(const std::filesystem::path& path) {
  const double pi = 3.141592653589793;
  const tensor_info tensors[] = {
      tensor_of<std::uint8_t>("bytes", {3}, bytes),
      tensor_of<float>("layer.0.weight", {2, 3}, weights),
      tensor_of<double>("pi", {}, std::span(&pi, 1)),
      tensor_of<std::int64_t>("steps", {2}, steps),
      tensor_of<float>("empty", {0, 4}, {}),
  };
  write_safetensors(path, tensors, {{"step", "2000"}, {"note", "\"quoted\" \\ \xc3\xa9\n"}});
}

const char* const python_check = R"(
import hashlib, json, struct, sys

def fail(why):
    sys.exit('check failed: ' + why)

raw = open(sys.argv[1], 'rb').read()
(n,) = struct.unpack('<Q', raw[:8])
head, data = raw[8:8 + n], raw[8 + n:]
if n % 8 or head[:1] != b'{' or len(head) != n: fail('header')
entries = json.loads(head.decode('utf-8'))
meta = entries.pop('__metadata__')
if meta['step'] != '2000' or meta['note'] != '"quoted" \\ \u00e9\n': fail('metadata')
if meta['sha256'] != hashlib.sha256(data).hexdigest(): fail('sha256')
blank = head.replace(meta['header_sha256'].encode(), b'0' * 64)
if meta['header_sha256'] != hashlib.sha256(blank).hexdigest(): fail('header_sha256')
end = 0
for name, e in entries.items():
    begin, stop = e['data_offsets']
    if begin != end: fail('hole')
    end = stop
if end != len(data): fail('end')

def values(name, dtype, shape, code):
    e = entries[name]
    if (e['dtype'], e['shape']) != (dtype, shape): fail(name)
    begin, stop = e['data_offsets']
    size = struct.calcsize('<' + code)
    if begin % size: fail(name + ' is not aligned')
    return list(struct.unpack('<%d%s' % ((stop - begin) // size, code), data[begin:stop]))

bits = [0x3fc00000, 0xc0100000, 0, 0x80000000, 0x7f61b1e6, 1]
if values('layer.0.weight', 'F32', [2, 3], 'I') != bits: fail('weight')
if values('pi', 'F64', [], 'd') != [3.141592653589793]: fail('pi')
if values('steps', 'I64', [2], 'q') != [-1, 2**63 - 1]: fail('steps')
if values('bytes', 'U8', [3], 'B') != [0, 127, 255]: fail('bytes')
if values('empty', 'F32', [0, 4], 'f') != []: fail('empty')
if len(entries) != 5: fail('names')
)";

// Written as other programs would: keys in another order, spaces, \u escapes, no padding, odd
// offsets.
const char* const python_write = R"(
import hashlib, json, struct, sys
data = bytes([1]) + struct.pack('<3f', 0.5, -1.0, float('inf')) + struct.pack('<2H', 0x3c00, 0x3f80)
header = {
    'half': {'data_offsets': [13, 15], 'shape': [1], 'dtype': 'F16'},
    'brain': {'data_offsets': [15, 17], 'shape': [1, 1], 'dtype': 'BF16'},
    'flag': {'shape': [], 'dtype': 'BOOL', 'data_offsets': [0, 1]},
    '__metadata__': {'format': 'pt', 'sha256': hashlib.sha256(data).hexdigest()},
    'gr\u00fc\u00dfe': {'dtype': 'F32', 'shape': [3], 'data_offsets': [1, 13]},
}
text = json.dumps(header).encode()
open(sys.argv[1], 'wb').write(struct.pack('<Q', len(text)) + text + data)
)";

/// Runs a script on a file; whether it succeeded.
bool run_python(const scratch_dir& dir, const char* script, const std::string& file) {
  dir.write("script.py", script);
  const std::string command = "python3 '" + (dir / "script.py").string() + "' '" + file + "'";
  return std::system(command.c_str()) == 0;
}

bool have_python() { return std::system("command -v python3 >/dev/null 2>&1") == 0; }

}  // namespace

TEST_CASE("safetensors: what is written is read back", "[components]") {
  const scratch_dir dir;
  write_example(dir / "a");
  const safetensors_file file(dir / "a");
  CHECK(file.tensors().size() == 5);
  CHECK(file.metadata("step") == "2000");
  CHECK(file.metadata("note") == "\"quoted\" \\ \xc3\xa9\n");
  CHECK(file.metadata("sha256") == sha256_hex(file.data()));
  CHECK(file.at("layer.0.weight").shape == std::vector<std::int64_t>{2, 3});
  const auto read = values_of<float>(file, "layer.0.weight");
  CHECK(std::memcmp(read.data(), weights.data(), sizeof(float) * weights.size()) == 0);
  CHECK(values_of<std::int64_t>(file, "steps") == steps);
  CHECK(values_of<std::uint8_t>(file, "bytes") == bytes);
  CHECK(values_of<double>(file, "pi").at(0) == 3.141592653589793);
  CHECK(file.at("empty").data.empty());
  CHECK(file.contains("pi"));
  CHECK_FALSE(file.contains("tau"));
  CHECK(dir.files() == std::vector<std::string>{"a"});
}

TEST_CASE("safetensors: 16-bit storage types keep their bits", "[components]") {
  const std::vector<Eigen::half> half = {Eigen::half(1.5f), Eigen::half(-65504.0f)};
  const std::vector<Eigen::bfloat16> brain = {Eigen::bfloat16(1.5f), Eigen::bfloat16(-3e38f)};
  const scratch_dir dir;
  const tensor_info tensors[] = {tensor_of<Eigen::half>("h", {2}, half),
                                 tensor_of<Eigen::bfloat16>("b", {2}, brain)};
  write_safetensors(dir / "a", tensors);
  const safetensors_file file(dir / "a");
  CHECK(file.at("h").type == tensor_dtype::f16);
  CHECK(file.at("b").type == tensor_dtype::bf16);
  CHECK(values_of<Eigen::half>(file, "h") == half);
  CHECK(values_of<Eigen::bfloat16>(file, "b") == brain);
}

TEST_CASE("safetensors: a file without tensors is valid", "[components]") {
  const scratch_dir dir;
  write_safetensors(dir / "a", {});
  CHECK(safetensors_file(dir / "a").tensors().empty());
  dir.write("b", make_file("{}"));
  CHECK(safetensors_file(dir / "b").tensors().empty());
}

TEST_CASE("safetensors: an independent parser reads our files", "[components]") {
  if (!have_python()) {
    WARN("there is no python3: not compared");
    return;
  }
  const scratch_dir dir;
  write_example(dir / "a");
  CHECK(run_python(dir, python_check, (dir / "a").string()));
  // The check itself must be able to fail.
  write_safetensors(dir / "b", {}, {{"step", "1"}});
  CHECK_FALSE(
      run_python(dir, python_check, (dir / "b").string() + "' 2>'" + (dir / "log").string()));
}

TEST_CASE("safetensors: we read an independent writer's files", "[components]") {
  if (!have_python()) {
    WARN("there is no python3: not compared");
    return;
  }
  const scratch_dir dir;
  REQUIRE(run_python(dir, python_write, (dir / "a").string()));
  const safetensors_file file(dir / "a");
  CHECK(file.metadata("format") == "pt");
  CHECK(values_of<float>(file,
                         "gr\xc3\xbc\xc3\x9f"
                         "e") ==
        std::vector<float>{0.5f, -1.0f, std::numeric_limits<float>::infinity()});
  CHECK(static_cast<float>(values_of<Eigen::half>(file, "half").at(0)) == 1.0f);
  CHECK(static_cast<float>(values_of<Eigen::bfloat16>(file, "brain").at(0)) == 1.0f);
  bool flag = false;
  file.copy_to("flag", {}, std::span(&flag, 1));
  CHECK(flag);
}

TEST_CASE("safetensors: every flipped bit and every truncation is refused", "[errors]") {
  const scratch_dir dir;
  write_example(dir / "a");
  const std::string good = dir.read("a");
  const auto refused = [&] {
    try {
      safetensors_file file(dir / "b");
    } catch (const mmrec::error& e) {
      return says(e.what(), {"safetensors_file: path", "b'"});
    }
    return false;
  };
  std::size_t accepted = 0;
  for (std::size_t i = 0; i < good.size(); ++i) {
    for (const int bit : {0, 5}) {
      std::string damaged = good;
      damaged[i] = static_cast<char>(damaged[i] ^ (1 << bit));
      dir.write("b", damaged);
      accepted += refused() ? 0 : 1;
    }
    dir.write("b", good.substr(0, i));
    accepted += refused() ? 0 : 1;
  }
  CHECK(accepted == 0);
  dir.write("b", good + '\0');
  CHECK(refused());
  dir.write("b", good);
  CHECK_FALSE(refused());
}

TEST_CASE("safetensors: the message says what is wrong with the file", "[errors]") {
  const std::string_view f32_1 = "\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]";
  const std::string_view four = "abcd";
  REQUIRE_NOTHROW([&] {  // the base of the cases below is valid
    const scratch_dir dir;
    dir.write("ok", make_file(one_tensor(f32_1), four));
    safetensors_file(dir / "ok");
  }());

  CHECK(says(refusal(""), {"truncated"}));
  CHECK(says(refusal("1234567"), {"truncated"}));
  CHECK(says(refusal("\x89PNG\r\n\x1a\n and more"), {"over the limit", "not a safetensors file"}));
  CHECK(says(refusal(make_file("{}").substr(0, 9)), {"truncated", "header length is 2"}));
  CHECK(says(refusal(make_file("")), {"does not begin with '{'"}));
  CHECK(says(refusal(make_file(" {}")), {"does not begin with '{'"}));
  CHECK(says(refusal(make_file("{\"t\":")), {"not valid JSON"}));
  CHECK(says(refusal(make_file("{} x")), {"not valid JSON"}));
  CHECK(says(refusal(make_file(std::string_view("{}\0\0", 4))), {"zero byte"}));
  CHECK(says(refusal(make_file("{\"\xff\xfe\":1}")), {"not valid JSON", "UTF-8"}));
  CHECK(says(refusal(make_file("{\"a\":" + std::string(20, '[') + std::string(20, ']') + "}")),
             {"too deeply"}));

  CHECK(says(refusal(make_file("{\"t\":3}")), {"tensor 't'", "object"}));
  CHECK(says(refusal(make_file(one_tensor("\"dtype\":\"F32\",\"shape\":[1]"), four)),
             {"no data_offsets"}));
  CHECK(says(refusal(make_file(one_tensor("\"shape\":[1],\"data_offsets\":[0,4]"), four)),
             {"no dtype"}));
  CHECK(says(refusal(make_file(one_tensor("\"dtype\":\"F32\",\"data_offsets\":[0,4]"), four)),
             {"no shape"}));
  CHECK(says(refusal(make_file(one_tensor("\"dtype\":\"F33\",\"shape\":[1],\"data_offsets\":[0,4]"),
                               four)),
             {"unknown dtype", "F33"}));
  CHECK(
      says(refusal(make_file(one_tensor("\"dtype\":7,\"shape\":[1],\"data_offsets\":[0,4]"), four)),
           {"unknown dtype: 7"}));
  for (const char* shape :
       {"[-1]", "[1.0]", "[\"1\"]", "[18446744073709551615]", "[99999999999999999999]", "[null]"}) {
    CAPTURE(shape);
    const auto fields = "\"dtype\":\"F32\",\"data_offsets\":[0,4],\"shape\":" + std::string(shape);
    CHECK(says(refusal(make_file(one_tensor(fields), four)), {"not an extent"}));
  }
  CHECK(says(
      refusal(make_file(one_tensor("\"dtype\":\"F32\",\"shape\":1,\"data_offsets\":[0,4]"), four)),
      {"shape that is not an array"}));
  for (const char* offsets : {"[0]", "[0,4,8]", "[4,0]", "[-4,0]", "[0,4.0]", "{}", "4"}) {
    CAPTURE(offsets);
    const auto fields = "\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":" + std::string(offsets);
    CHECK(says(refusal(make_file(one_tensor(fields), four)), {"not [begin, end]"}));
  }
  CHECK(
      says(refusal(make_file(one_tensor(f32_1), "abc")), {"truncated", "ends at byte 4", "has 3"}));
  CHECK(says(refusal(make_file(one_tensor(f32_1), "abcde")), {"1 bytes follow the last tensor"}));
  CHECK(says(refusal(make_file("{}", "x")), {"1 bytes follow"}));
  CHECK(says(refusal(make_file(one_tensor("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]"),
                               four)),
             {"4 bytes of data, which does not fit F32 (2)"}));
  // 2^62 x 8 elements: the product is 0 modulo 2^64.
  CHECK(says(refusal(make_file(one_tensor("\"dtype\":\"F32\",\"shape\":[4611686018427387904,8],"
                                          "\"data_offsets\":[0,0]"))),
             {"does not fit"}));

  const auto two = [](std::string_view a, std::string_view b) {
    return "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":" + std::string(a) +
           "},\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":" + std::string(b) + "}}";
  };
  CHECK(says(refusal(make_file(two("[0,2]", "[1,3]"), "abc")), {"'b' overlap"}));
  CHECK(says(refusal(make_file(two("[0,2]", "[0,2]"), "ab")), {"overlap"}));
  CHECK(says(refusal(make_file(two("[0,2]", "[3,5]"), "abcde")), {"hole", "'b'"}));
  CHECK(says(refusal(make_file(two("[3,5]", "[1,3]"), "abcde")), {"hole", "'b'"}));

  CHECK(says(refusal(make_file(
                 "{\"t\":{" + std::string(f32_1) + "},\"t\":{" + std::string(f32_1) + "}}", four)),
             {"key 't' twice"}));
  CHECK(
      says(refusal(make_file("{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}")), {"key 'k' twice"}));
  CHECK(says(refusal(make_file("{\"__metadata__\":[]}")), {"__metadata__ is not an object"}));
  CHECK(says(refusal(make_file("{\"__metadata__\":{\"k\":1}}")), {"'k'", "not a string"}));
  CHECK(says(refusal(make_file("{\"__metadata__\":{\"sha256\":\"00\"}}")),
             {"tensor data do not match"}));
  CHECK(says(refusal(make_file("{\"__metadata__\":{\"header_sha256\":\"00\"}}")),
             {"header does not match"}));
  CHECK(says(refusal(make_file("{\"__metadata__\":{\"producer\":\"mmrec\"}}")),
             {"lack its digests"}));
}

TEST_CASE("safetensors: absent files, directories and pipes are refused", "[errors]") {
  const scratch_dir dir;
  CHECK(says(message_of<mmrec::error>([&] { safetensors_file(dir / "absent"); }),
             {"absent'", "No such file"}));
  CHECK(says(message_of<mmrec::error>([&] { safetensors_file(dir.path()); }), {"a directory"}));
  CHECK(
      says(message_of<mmrec::error>([] { safetensors_file("/dev/null"); }), {"a device or pipe"}));
}

TEST_CASE("safetensors: a tensor is copied only as what it is", "[errors]") {
  const scratch_dir dir;
  write_example(dir / "a");
  const safetensors_file file(dir / "a");
  std::vector<float> out(6);
  const auto copy = [&](std::string_view name, const std::vector<std::int64_t>& shape) {
    return message_of<mmrec::error>([&] { file.copy_to(name, shape, std::span(out)); });
  };
  CHECK(says(copy("layer.0.weight", {3, 2}), {"layer.0.weight", "F32 (3, 2)", "F32 (2, 3)", "a'"}));
  CHECK(says(copy("pi", {}), {"expected F32 ()", "got F64 ()"}));
  CHECK(says(copy("tau", {}), {"no tensor 'tau'", "a'"}));
  out.resize(5);
  CHECK(says(copy("layer.0.weight", {2, 3}), {"6 values", "got 5"}));
  CHECK(says(message_of<mmrec::error>([&] { file.metadata("seed"); }), {"no key 'seed'", "a'"}));
}

TEST_CASE("safetensors: nothing is written when the arguments are wrong", "[errors]") {
  const scratch_dir dir;
  dir.write("a", "old");
  const float x = 1;
  const tensor_info good = tensor_of<float>("x", {1}, std::span(&x, 1));
  const auto attempt = [&](const std::vector<tensor_info>& tensors,
                           const std::map<std::string, std::string>& metadata = {}) {
    return message_of<mmrec::error>([&] { write_safetensors(dir / "a", tensors, metadata); });
  };
  CHECK(says(attempt({good, good}), {"'x' twice"}));
  tensor_info bad = good;
  bad.shape = {2};
  CHECK(says(attempt({bad}), {"tensors['x'].data", "F32 (2)", "4 bytes"}));
  bad.shape = {-1};
  CHECK(says(attempt({bad}), {"F32 (-1)"}));
  bad = good;
  bad.name = "__metadata__";
  CHECK(says(attempt({bad}), {"__metadata__"}));
  bad.name = "\xff";
  CHECK(says(attempt({bad}), {"UTF-8"}));
  CHECK(says(attempt({good}, {{"k", "\xc3("}}), {"UTF-8"}));
  CHECK(says(attempt({good}, {{"sha256", ""}}), {"'sha256'"}));
  CHECK(says(attempt({good}, {{"producer", "me"}}), {"'producer'"}));
  CHECK(says(message_of<mmrec::error>([&] { tensor_of<float>("x", {2}, std::span(&x, 1)); }),
             {"'x'", "(2)"}));
  CHECK(dir.read("a") == "old");
  CHECK(dir.files() == std::vector<std::string>{"a"});
}

TEST_CASE("safetensors: a write through a link is one of the file that it leads to",
          "[components]") {
  const scratch_dir dir;
  namespace fs = std::filesystem;
  fs::create_directory(dir / "far");
  dir.write("far/there", "old");
  for (const char* name : {"there", "not_yet"}) {
    fs::create_symlink(fs::path("far") / name, dir / "link");
    fs::create_symlink("link", dir / "link_to_link");
    write_safetensors(dir / "link_to_link", {});
    CHECK(fs::is_symlink(dir / "link"));
    CHECK(fs::is_symlink(dir / "link_to_link"));
    REQUIRE(fs::is_regular_file(dir / "far" / name));
    CHECK(safetensors_file(dir / "far" / name).tensors().empty());
    CHECK(!fs::exists(dir / "far" / (std::string(name) + ".partial")));
    fs::remove(dir / "link"), fs::remove(dir / "link_to_link");
  }
  fs::create_symlink("circle", dir / "circle");
  CHECK(says(message_of<mmrec::error>([&] { write_safetensors(dir / "circle", {}); }),
             {"atomic_file: path", "circle'"}));
  CHECK(dir.files() == std::vector<std::string>{"circle", "far"});
}

TEST_CASE("safetensors: a write that fails leaves the old file and no other", "[errors]") {
  const scratch_dir dir;
  CHECK(says(message_of<mmrec::error>([&] { write_safetensors(dir / "no" / "a", {}); }),
             {"a.partial", "No such file"}));
  CHECK(
      says(message_of<mmrec::error>([&] { write_safetensors(dir.path(), {}); }), {"a directory"}));
  REQUIRE(::mkfifo((dir / "pipe").c_str(), 0600) == 0);
  CHECK(says(message_of<mmrec::error>([&] { write_safetensors(dir / "pipe", {}); }),
             {"a regular file", "a device or pipe"}));
  CHECK(dir.files() == std::vector<std::string>{"pipe"});
  std::filesystem::remove(dir / "pipe");

  dir.write("a", "old");
  {  // the process ends, or throws, half way
    atomic_file out(dir / "a");
    out.write("half of it");
    CHECK(dir.files() == std::vector<std::string>{"a", "a.partial"});
    CHECK(says(message_of<mmrec::runtime_failure>([&] { atomic_file other(dir / "a"); }),
               {"another process"}));
  }
  CHECK(dir.read("a") == "old");
  CHECK(dir.files() == std::vector<std::string>{"a"});

  dir.write("a.partial", std::string(100000, 'x'));  // what a killed process leaves
  write_safetensors(dir / "a", {});
  CHECK(safetensors_file(dir / "a").tensors().empty());
  CHECK(dir.files() == std::vector<std::string>{"a"});
}
