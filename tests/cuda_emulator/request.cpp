#include "request.h"

#include "machine.h"

#include <cstdlib>
#include <cstring>
#include <istream>
#include <ostream>
#include <sstream>

#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace cuda_emulator {

namespace {

constexpr int64_t kAlignment = 64;
// Above this memory is only promised, because a request uses a small part of it.
constexpr int64_t kMapped = int64_t(1) << 28;

std::string until(std::istringstream& stream, char end) {
  std::string text;
  std::getline(stream, text, end);
  return text;
}

} // namespace

Buffer::Buffer(const std::string& name, const std::string& description, std::istream& stream)
    : name_(name) {
  std::istringstream fields(description);
  const std::string role = until(fields, ':');
  const int64_t bytes = std::stoll(until(fields, ':'));
  const int64_t misalignment = std::stoll(until(fields, ':'));
  while (fields.peek() != EOF) {
    const int64_t offset = std::stoll(until(fields, ','));
    parts_.push_back({offset, std::stoll(until(fields, ';'))});
  }

  writable_ = role != "input";
  memory_bytes_ = bytes > kMapped ? misalignment + bytes : 0;
  if (memory_bytes_ > 0) {
    memory_ = static_cast<unsigned char*>(
        mmap(nullptr, memory_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (memory_ == MAP_FAILED) {
      fault("no %lld bytes of address space for %s", static_cast<long long>(bytes), name.c_str());
    }
  } else {
    // aligned_alloc would round the size up, and with it the end that must not be passed.
    void* allocated = nullptr;
    if (posix_memalign(&allocated, kAlignment, misalignment + bytes) != 0) {
      fault("no %lld bytes of memory for %s", static_cast<long long>(bytes), name.c_str());
    }
    memory_ = static_cast<unsigned char*>(allocated);
    // What a kernel should have written but has not is NaN in every type.
    std::memset(memory_, role == "output" ? 0xFF : 0, misalignment + bytes);
  }
  data_ = memory_ + misalignment;
  if (!writable_) {
    for (const Part& part : parts_) {
      stream.read(reinterpret_cast<char*>(data_ + part.offset), part.length);
    }
  }
#if defined(__SANITIZE_ADDRESS__)
  ASAN_POISON_MEMORY_REGION(memory_, misalignment);
#endif
  region_ = std::make_unique<Region>(name_.c_str(), data_, bytes, writable_);
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
  if (writable_) {
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
      order_.push_back(name.substr(7));
      buffers_[order_.back()] = std::make_unique<Buffer>(order_.back(), value, stream);
    } else {
      fields_[name] = value;
    }
  }
}

const std::string& Request::text(const std::string& name) const {
  const auto found = fields_.find(name);
  if (found == fields_.end()) {
    fault("the request lacks %s", name.c_str());
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
  fault("the request has the dtype %s", dtype.c_str());
}

void* Request::buffer(const std::string& name) const {
  const auto found = buffers_.find(name);
  return found == buffers_.end() ? nullptr : found->second->data();
}

void Request::answer(std::ostream& stream) const {
  stream << "done\n";
  for (const std::string& name : order_) {
    buffers_.at(name)->answer(stream);
  }
  stream.flush();
}

} // namespace cuda_emulator
