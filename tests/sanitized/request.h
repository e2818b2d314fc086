// One call of an operator, as it comes in and as it is answered: a line of "name=value", then the bytes of its inputs.
//
// A buffer is "buffer.<name>=<role>:<bytes>:<misalignment>:<offset>,<length>;..." with the parts that are sent, or for an
// output sent back; the rest of an input is zero. Roles: input; output, which the kernel writes; sum, zeros to which it
// adds. Buffers end where their memory ends.

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
  const unsigned char untouched; // each byte of what is writable

  /// Memory as a request describes it, with what `stream` holds of an input.
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
  /// Null where the request lacks it.
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
