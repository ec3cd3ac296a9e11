// SPDX-License-Identifier: Apache-2.0
// Files as bytes: reading with clear errors, and writing that leaves either the old file or the
// complete new one, whatever happens in between (POSIX).
//
//   auto bytes = read_bytes("load_text", path);
//
//   atomic_file out(path);   // writes path.partial
//   out.write(bytes);
//   out.commit();            // now it is path; without commit() the partial file is removed
//
// Errors name the file and what the caller has for it: "path", or the option that gave it.
#pragma once

#include <mmrec/error.hpp>

#include <fcntl.h>
#include <sys/file.h>  // flock
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace mmrec::examples {

inline std::string quoted(const std::filesystem::path& path) { return "'" + path.string() + "'"; }

inline std::string system_message(int code) { return std::system_category().message(code); }

/// A POSIX file descriptor that is closed when it goes out of scope.
class file_descriptor {
 public:
  file_descriptor() = default;
  explicit file_descriptor(int fd) : fd_(fd) {}
  file_descriptor(file_descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  file_descriptor& operator=(file_descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~file_descriptor() { close(); }

  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  void close() {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  }

 private:
  int fd_ = -1;
};

/// Writes all bytes, however often the system stops half way.
inline void write_all(std::string_view function, const std::filesystem::path& path, int fd,
                      std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      throw runtime_failure(function,
                            "cannot write " + quoted(path) + ": " + system_message(errno));
    }
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
}

/// A regular file that is open for reading. Anything else is an error that names it.
class input_file {
 public:
  input_file(std::string_view function, std::filesystem::path path, const char* argument = "path")
      : function_(function),
        path_(std::move(path)),
        fd_(::open(path_.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (!fd_)
      throw error(function_, argument, "a readable file",
                  quoted(path_) + ": " + system_message(errno));
    struct stat info = {};
    if (::fstat(fd_.get(), &info) != 0) {
      throw runtime_failure(function_,
                            "cannot examine " + quoted(path_) + ": " + system_message(errno));
    }
    if (S_ISDIR(info.st_mode))
      throw error(function_, argument, "a file", quoted(path_) + ", a directory");
    if (!S_ISREG(info.st_mode)) {
      throw error(function_, argument, "a regular file", quoted(path_) + ", a device or pipe");
    }
    size_ = static_cast<std::uint64_t>(info.st_size);
  }

  std::uint64_t size() const { return size_; }

  /// Reads up to out.size() bytes; fewer only at the end of the file.
  std::size_t read(std::span<std::byte> out) {
    std::size_t done = 0;
    while (done < out.size()) {
      const ssize_t n = ::read(fd_.get(), out.data() + done, out.size() - done);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) {
        throw runtime_failure(function_,
                              "cannot read " + quoted(path_) + ": " + system_message(errno));
      }
      if (n == 0) break;
      done += static_cast<std::size_t>(n);
    }
    return done;
  }

 private:
  std::string function_;
  std::filesystem::path path_;
  file_descriptor fd_;
  std::uint64_t size_ = 0;
};

/// The whole file.
inline std::vector<std::byte> read_bytes(std::string_view function,
                                         const std::filesystem::path& path,
                                         const char* argument = "path") {
  input_file in(function, path, argument);
  std::vector<std::byte> bytes(in.size());
  bytes.resize(in.read(bytes));
  return bytes;
}

/// A file that appears under its name complete or not at all. The bytes go to `<path>.partial` in
/// the same directory; commit() makes them durable and renames. A process that was killed leaves
/// only the partial file, which the next write takes over; a lock keeps two writers apart. Where
/// the name is a symbolic link, the file that it leads to is what is written.
class atomic_file {
 public:
  explicit atomic_file(const std::filesystem::path& path, const char* argument = "path")
      : path_(target_of(path, argument)), partial_(path_) {
    partial_ += ".partial";
    std::error_code
        ignored;  // what cannot be examined cannot be opened either: the next step says why
    if (!path_.has_filename() || std::filesystem::is_directory(path_, ignored)) {
      throw error(function, argument, "the name of a file", quoted(path_) + ", a directory");
    }
    // To rename would put a file in the place of a device.
    if (std::filesystem::exists(path_, ignored) &&
        !std::filesystem::is_regular_file(path_, ignored))
      throw error(function, argument, "a regular file", quoted(path_) + ", a device or pipe");
    // The previous owner may rename the file between our open and our lock: then it is no longer
    // the partial file, and we start again.
    for (;;) {
      file_descriptor fd(::open(partial_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666));
      if (!fd) {
        throw error(function, argument, "a file in a writable directory",
                    quoted(partial_) + ": " + system_message(errno));
      }
      if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
        throw runtime_failure(function, "another process is writing " + quoted(partial_));
      }
      struct stat ours = {};
      struct stat named = {};
      if (::fstat(fd.get(), &ours) == 0 && ::stat(partial_.c_str(), &named) == 0 &&
          ours.st_dev == named.st_dev && ours.st_ino == named.st_ino) {
        fd_ = std::move(fd);
        break;
      }
    }
    if (::ftruncate(fd_.get(), 0) != 0) fail("cannot truncate", partial_);
  }

  atomic_file(const atomic_file&) = delete;
  atomic_file& operator=(const atomic_file&) = delete;
  ~atomic_file() {
    if (fd_) ::unlink(partial_.c_str());
  }

  void write(std::span<const std::byte> bytes) { write_all(function, partial_, fd_.get(), bytes); }
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }

  /// Data to the disk, then the name, then the directory entry: in this order a power failure
  /// cannot leave a named file without its contents.
  void commit() {
    if (::fsync(fd_.get()) != 0) fail("cannot flush", partial_);
    if (::rename(partial_.c_str(), path_.c_str()) != 0) fail("cannot rename to", path_);
    fd_.close();
    const auto directory =
        path_.has_parent_path() ? path_.parent_path() : std::filesystem::path(".");
    const file_descriptor dir(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    // Some file systems cannot flush a directory and say EINVAL; there is nothing more to do there.
    if (dir && ::fsync(dir.get()) != 0 && errno != EINVAL) fail("cannot flush", directory);
  }

 private:
  static constexpr std::string_view function = "atomic_file";

  /// Also of a link to a file that is not there yet, which weakly_canonical leaves as it is.
  static std::filesystem::path target_of(std::filesystem::path path, const char* argument) {
    const std::filesystem::path given = path;
    std::error_code ignored;  // what cannot be examined is no link
    for (int links = 0; std::filesystem::is_symlink(path, ignored); ++links) {
      if (links == 40)  // as many as Linux follows
        throw error(function, argument, "a file", quoted(given) + ": " + system_message(ELOOP));
      path = path.parent_path() / std::filesystem::read_symlink(path);
    }
    return path;
  }

  [[noreturn]] static void fail(const char* what, const std::filesystem::path& path) {
    throw runtime_failure(function, what + (" " + quoted(path)) + ": " + system_message(errno));
  }

  std::filesystem::path path_;
  std::filesystem::path partial_;
  file_descriptor fd_;
};

inline void write_text_atomically(const std::filesystem::path& path, std::string_view text,
                                  const char* argument = "path") {
  atomic_file out(path, argument);
  out.write(text);
  out.commit();
}

}  // namespace mmrec::examples
