// One call of an operator as text and bytes: a line of "name=value" fields, then the contents of the inputs.
//
// A buffer is "buffer.<name>=<role>:<bytes>:<misalignment>:<offset>,<length>;...". The parts at the end are sent with
// the request, or returned for an output; the rest of an input is zero. Roles: input; output, which the kernel writes;
// sum, zeros to which it adds. A buffer ends where its memory ends.

#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>
#include <iosfwd>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

namespace sanitized {

class Buffer {
 public:
  const std::string name;
  const int64_t bytes;
  const bool writable;
  const unsigned char untouched; // the initial value of each byte, if writable

  /// Allocates a buffer as described, and reads the contents of an input from `stream`.
  static std::unique_ptr<Buffer> read(const std::string& name, const std::string& description, std::istream& stream);
  ~Buffer();
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  void* data() const {
    return data_;
  }
  void answer(std::ostream& stream) const;

 private:
  struct Part {
    int64_t offset;
    int64_t length;
  };

  Buffer(const std::string& name, const std::string& role, int64_t bytes, int64_t misalignment);

  unsigned char* memory_;
  int64_t memory_bytes_; // of a mapping, 0 for an allocation
  unsigned char* data_;
  std::vector<Part> parts_;
};

class Request {
 public:
  /// Reads one request, whose first line is `line`.
  Request(const std::string& line, std::istream& stream);

  const std::string& text(const std::string& name) const;
  int64_t integer(const std::string& name) const;
  int32_t small(const std::string& name) const {
    return static_cast<int32_t>(integer(name));
  }
  double real(const std::string& name) const;
  std::vector<int64_t> integers(const std::string& name) const;
  c10::ScalarType dtype(const std::string& name) const;
  bool is_forward() const {
    return text("direction") == "forward";
  }
  /// Null if the request does not have it.
  void* buffer(const std::string& name) const;
  const std::vector<std::unique_ptr<Buffer>>& buffers() const {
    return buffers_;
  }

  void answer(std::ostream& stream) const;

 private:
  std::unordered_map<std::string, std::string> fields_;
  std::vector<std::unique_ptr<Buffer>> buffers_;
};

} // namespace sanitized
