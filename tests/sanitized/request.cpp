#include "request.h"

#include <cstdlib>
#include <cstring>
#include <istream>
#include <ostream>
#include <sstream>
#include <stdexcept>

#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace sanitized {

namespace {

constexpr int64_t kAlignment = 64;
// Larger buffers are mapped without being committed, because a request uses a small part of them.
constexpr int64_t kMapped = int64_t(1) << 28;

std::string until(std::istringstream& stream, char end) {
  std::string text;
  std::getline(stream, text, end);
  return text;
}

[[noreturn]] void refuse(const std::string& what) {
  throw std::runtime_error("request: " + what);
}

} // namespace

Buffer::Buffer(const std::string& name, const std::string& role, int64_t bytes, int64_t misalignment)
    : name(name),
      bytes(bytes),
      writable(role != "input"),
      // Elements that a kernel fails to write are NaN in every dtype.
      untouched(role == "output" ? 0xFF : 0),
      memory_bytes_(bytes > kMapped ? misalignment + bytes : 0) {
  if (memory_bytes_ > 0) {
    memory_ = static_cast<unsigned char*>(
        mmap(nullptr, memory_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (memory_ == MAP_FAILED) {
      refuse("no " + std::to_string(bytes) + " bytes of address space for " + name);
    }
  } else {
    // aligned_alloc would round the size up, so accesses just beyond the buffer would go undetected.
    void* allocated = nullptr;
    if (posix_memalign(&allocated, kAlignment, misalignment + bytes) != 0) {
      refuse("no " + std::to_string(bytes) + " bytes of memory for " + name);
    }
    memory_ = static_cast<unsigned char*>(allocated);
    std::memset(memory_, untouched, misalignment + bytes);
  }
  data_ = memory_ + misalignment;
}

std::unique_ptr<Buffer> Buffer::read(const std::string& name, const std::string& description, std::istream& stream) {
  std::istringstream fields(description);
  const std::string role = until(fields, ':');
  const int64_t bytes = std::stoll(until(fields, ':'));
  const int64_t misalignment = std::stoll(until(fields, ':'));
  std::unique_ptr<Buffer> buffer(new Buffer(name, role, bytes, misalignment));
  while (fields.peek() != EOF) {
    const int64_t offset = std::stoll(until(fields, ','));
    buffer->parts_.push_back({offset, std::stoll(until(fields, ';'))});
  }
  if (!buffer->writable) {
    for (const Part& part : buffer->parts_) {
      stream.read(reinterpret_cast<char*>(buffer->data_ + part.offset), part.length);
    }
  }
#if defined(__SANITIZE_ADDRESS__)
  ASAN_POISON_MEMORY_REGION(buffer->memory_, misalignment);
#endif
  return buffer;
}

Buffer::~Buffer() {
#if defined(__SANITIZE_ADDRESS__)
  ASAN_UNPOISON_MEMORY_REGION(memory_, data_ - memory_);
#endif
  if (memory_bytes_ > 0) {
    munmap(memory_, memory_bytes_);
  } else {
    std::free(memory_);
  }
}

void Buffer::answer(std::ostream& stream) const {
  if (writable) {
    for (const Part& part : parts_) {
      stream.write(reinterpret_cast<const char*>(data_ + part.offset), part.length);
    }
  }
}

Request::Request(const std::string& line, std::istream& stream) {
  std::istringstream words(line);
  std::string word;
  while (words >> word) {
    const size_t split = word.find('=');
    const std::string name = word.substr(0, split);
    const std::string value = word.substr(split + 1);
    if (name.rfind("buffer.", 0) == 0) {
      buffers_.push_back(Buffer::read(name.substr(7), value, stream));
    } else {
      fields_[name] = value;
    }
  }
}

const std::string& Request::text(const std::string& name) const {
  const auto found = fields_.find(name);
  if (found == fields_.end()) {
    refuse("it lacks " + name);
  }
  return found->second;
}

int64_t Request::integer(const std::string& name) const {
  return std::stoll(text(name));
}

double Request::real(const std::string& name) const {
  return std::stod(text(name));
}

std::vector<int64_t> Request::integers(const std::string& name) const {
  std::istringstream stream(text(name));
  std::vector<int64_t> numbers;
  while (stream.peek() != EOF) {
    numbers.push_back(std::stoll(until(stream, ',')));
  }
  return numbers;
}

c10::ScalarType Request::dtype(const std::string& name) const {
  const std::string& dtype = text(name);
  if (dtype == "float64") {
    return c10::kDouble;
  }
  if (dtype == "float32") {
    return c10::kFloat;
  }
  if (dtype == "bfloat16") {
    return c10::kBFloat16;
  }
  if (dtype == "float16") {
    return c10::kHalf;
  }
  refuse("it has the dtype " + dtype);
}

void* Request::buffer(const std::string& name) const {
  for (const auto& buffer : buffers_) {
    if (buffer->name == name) {
      return buffer->data();
    }
  }
  return nullptr;
}

void Request::answer(std::ostream& stream) const {
  stream << "done\n";
  for (const auto& buffer : buffers_) {
    buffer->answer(stream);
  }
  stream.flush();
}

} // namespace sanitized
