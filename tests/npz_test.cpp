// SPDX-License-Identifier: Apache-2.0
// The reader of reference data: what it reads, and that it refuses everything it should not trust.
#include "support/npz.hpp"

#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "support/catch.hpp"
#include "support/message_of.hpp"
#include "support/npz_writer.hpp"

namespace {

using namespace mmrec::testing;
using namespace std::string_literals;

npz read(const std::string& bytes) { return {"bad.npz", bytes}; }

// Whether the bytes are refused with a message that has all the parts.
bool refused(const std::string& bytes, std::initializer_list<std::string_view> parts) {
  return says(message_of<npz_error>([&] { (void)read(bytes); }), parts);
}

const std::string float_header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }\n";
const std::string two_floats(8, '\0');

std::string archive_of(const std::string& content) {
  return npz_bytes({{.name = "in/x.npy", .content = content}});
}

npz_member sample_member() { return make_member<float>("in/x", {2}, {1.0F, 2.0F}); }

}  // namespace

TEST_CASE("npz: values, shapes and names come back", "[components][npz]") {
  const npz file("good.npz",
                 npz_bytes({make_member<float>("in/x", {2, 3}, {1, -2, 3, 0.1F, 5, 6}),
                            make_member<double>("f64/grad/param/W_g.weight", {1}, {0.1}),
                            make_member<std::int64_t>("in/ids", {2, 1, 2}, {7, -1, 3, 1LL << 40}),
                            make_member<double>("f64/empty", {0, 3}, {})}));
  CHECK(file.file() == "good.npz");
  CHECK(file.names() ==
        std::vector<std::string>{"in/x", "f64/grad/param/W_g.weight", "in/ids", "f64/empty"});
  CHECK(file.contains("in/x"));
  CHECK_FALSE(file.contains("in/x.npy"));

  const npy_array& x = file.array("in/x");
  CHECK(x.dtype == npy_dtype::f4);
  CHECK(x.shape == std::vector<std::int64_t>{2, 3});
  CHECK(x.size() == 6);
  CHECK(x.as<float>() == std::vector<float>{1, -2, 3, 0.1F, 5, 6});
  CHECK(x.as<double>()[3] == double{0.1F});  // promoted exactly
  CHECK(file.array("f64/grad/param/W_g.weight").as<double>() == std::vector<double>{0.1});
  CHECK(file.array("in/ids").as<std::int64_t>() == std::vector<std::int64_t>{7, -1, 3, 1LL << 40});
  CHECK(file.array("f64/empty").shape == std::vector<std::int64_t>{0, 3});
  CHECK(file.array("f64/empty").as<double>().empty());
}

TEST_CASE("npz: conversions that would change a value are refused", "[components][npz][errors]") {
  const npz file("good.npz", npz_bytes({make_member<float>("in/x", {1}, {1}),
                                        make_member<double>("f64/y", {1}, {0.1}),
                                        make_member<std::int64_t>("in/ids", {1}, {5}),
                                        make_member<std::int64_t>("in/far", {1}, {1LL << 31})}));
  CHECK(says(message_of<npz_error>([&] { (void)file.array("f64/y").as<float>(); }),
             {"good.npz: f64/y: holds <f8"}));
  CHECK(says(message_of<npz_error>([&] { (void)file.array("in/ids").as<double>(); }),
             {"in/ids: holds <i8"}));
  CHECK(says(message_of<npz_error>([&] { (void)file.array("in/x").as<std::int64_t>(); }),
             {"in/x: holds <f4"}));
  CHECK(file.array("in/ids").as<std::int32_t>() == std::vector<std::int32_t>{5});
  CHECK(says(message_of<npz_error>([&] { (void)file.array("in/far").as<std::int32_t>(); }),
             {"in/far: element 0"}));
  CHECK(says(message_of<npz_error>([&] { (void)file.array("f64/z"); }),
             {"good.npz: f64/z: no such array"}));
}

TEST_CASE("npz: damaged archives are refused", "[components][npz][errors]") {
  const std::string good = npz_bytes({sample_member()});
  REQUIRE_NOTHROW(read(good));

  CHECK(refused("", {"bad.npz: too short"}));
  CHECK(refused(std::string(100, 'a'), {"end of central directory"}));
  CHECK(refused(good + "x", {"end of central directory"}));
  CHECK(refused(npz_bytes({}), {"holds no array"}));
  CHECK(refused("x" + good, {"does not fit the length"}));

  npz_member member = sample_member();
  member.flags = 1;
  CHECK(refused(npz_bytes({member}), {"bad.npz: in/x.npy: expected no encryption"}));
  member.flags = 8;
  CHECK(refused(npz_bytes({member}), {"data descriptor"}));
  member = sample_member();
  member.method = 8;
  CHECK(refused(npz_bytes({member}), {"bad.npz: in/x.npy: expected a stored"}));
  member = sample_member();
  member.crc_error = 1;
  CHECK(refused(npz_bytes({member}), {"bad.npz: in/x.npy: wrong CRC-32"}));
  member = sample_member();
  member.stored_size_error = 1;
  CHECK(refused(npz_bytes({member}), {"stored and original sizes"}));
  member = sample_member();
  member.local_name = "in/q.npy";
  CHECK(refused(npz_bytes({member}), {"another name"}));
  member = sample_member();
  member.name = member.local_name = "in/x.txt";
  CHECK(refused(npz_bytes({member}), {"expected NAME.npy"}));
  CHECK(refused(npz_bytes({sample_member(), sample_member()}), {"occurs twice"}));
}

// Cut anywhere, or one byte wrong anywhere: never accepted with other content, never a crash.
TEST_CASE("npz: every truncation and every flipped byte", "[components][npz][errors]") {
  const std::string good =
      npz_bytes({sample_member(), make_member<double>("f64/y", {2, 1}, {3, 4})});
  for (std::size_t size = 0; size < good.size(); ++size) {
    CAPTURE(size);
    CHECK_THROWS_AS(read(good.substr(0, size)), npz_error);
  }
  std::size_t accepted = 0;
  std::size_t refusals = 0;
  for (std::size_t at = 0; at < good.size(); ++at) {
    std::string damaged = good;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x41);
    CAPTURE(at);
    // Bytes without meaning for the data (times, attributes) may change; the data may not.
    try {
      const npz file = read(damaged);
      CHECK(file.names() == std::vector<std::string>{"in/x", "f64/y"});
      CHECK(file.array("in/x").as<float>() == std::vector<float>{1, 2});
      CHECK(file.array("f64/y").as<double>() == std::vector<double>{3, 4});
      ++accepted;
    } catch (const npz_error&) {
      ++refusals;
    }
  }
  // Per member, the central directory has 10 such bytes: the writer's version, disk, attributes.
  CHECK(accepted == 2 * 10);
  CHECK(refusals == good.size() - accepted);
}

TEST_CASE("npz: damaged arrays are refused", "[components][npz][errors]") {
  REQUIRE_NOTHROW(read(archive_of(npy_bytes(float_header, two_floats))));

  const auto header_refused = [](const std::string& header, std::string_view part = "bad.npz: in/x",
                                 const std::string& data = two_floats) {
    return refused(archive_of(npy_bytes(header, data)), {part});
  };
  const auto with_shape = [](const std::string& shape) {
    return "{'descr': '<f4', 'fortran_order': False, 'shape': " + shape + ", }\n";
  };
  CHECK_NOTHROW(read(archive_of(npy_bytes(with_shape("(2, 1)"), two_floats))));
  CHECK(header_refused(with_shape("(3,)"), "bad.npz: in/x: expected 12 bytes of data, seen 8"));
  CHECK(header_refused(with_shape("(1,)"), "expected 4 bytes of data, seen 8"));
  CHECK(header_refused(with_shape("()"), "at least one dimension", "abcd"));
  CHECK(header_refused(with_shape("(2)")));
  CHECK(header_refused(with_shape("(-2,)")));
  CHECK(header_refused(with_shape("(2, )x")));
  CHECK(header_refused(with_shape("(2,,1)")));
  CHECK(header_refused(with_shape("(2 1)")));
  CHECK(header_refused(with_shape("(99999999999999999999,)")));
  CHECK(header_refused(with_shape("(4611686018427387904, 8)"), "overflows"));
  CHECK(header_refused("{'descr': '>f4', 'fortran_order': False, 'shape': (2,), }\n", "seen >f4"));
  CHECK(header_refused("{'descr': '<f2', 'fortran_order': False, 'shape': (4,), }\n", "seen <f2"));
  CHECK(header_refused("{'descr': '<f4', 'fortran_order': True, 'shape': (2,), }\n"));
  CHECK(header_refused("{'descr': '<f4', 'shape': (2,), }\n"));
  CHECK(header_refused("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }"));
  CHECK(header_refused("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), } x\n"));
  CHECK(header_refused("{'descr': '<f4"));
  CHECK(header_refused(""));

  CHECK(refused(archive_of(""), {"bad.npz: in/x"}));
  CHECK(refused(archive_of("\x93NUMPX\x01\0"s + std::string(80, ' ')), {"bad.npz: in/x"}));
  CHECK(refused(archive_of("\x93NUMPY\x02\0"s + std::string(80, ' ')), {"version 1.0"}));
  CHECK(refused(archive_of("\x93NUMPY\x01\0\xff\xff"s), {"ends early"}));
}

TEST_CASE("npz: a file that is not there", "[components][npz][errors]") {
  CHECK(says(message_of<npz_error>([] { npz(std::filesystem::path("no-such-file.npz")); }),
             {"no-such-file.npz: cannot be opened"}));
}
