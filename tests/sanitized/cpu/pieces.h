// Runs the pieces of a call, which threads would run in parallel, one after the other.

#pragma once

#include "request.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace sanitized {

/// An output buffer that is reset before every piece, and the collected results of all pieces. No two pieces may write
/// to the same byte, not even the same value: with threads that would be a data race.
class Shared {
 public:
  explicit Shared(const Buffer& buffer)
      : buffer_(buffer), data_(static_cast<unsigned char*>(buffer.data())), written_(data_, data_ + buffer.bytes) {}

  void take_what_a_piece_wrote() {
    for (size_t i = 0; i < written_.size(); ++i) {
      if (data_[i] != buffer_.untouched) {
        if (written_[i] != buffer_.untouched) {
          throw std::runtime_error("two pieces write byte " + std::to_string(i) + " of " + buffer_.name);
        }
        written_[i] = data_[i];
        data_[i] = buffer_.untouched;
      }
    }
  }

  void give_all_back() {
    std::copy(written_.begin(), written_.end(), data_);
  }

 private:
  const Buffer& buffer_;
  unsigned char* const data_;
  std::vector<unsigned char> written_;
};

/// Calls `body(piece)` for each of the request's pieces, which consist of `numbers` numbers.
template <size_t numbers, typename body_t>
void for_each_piece(const Request& request, const body_t& body) {
  std::vector<Shared> outputs;
  for (const auto& buffer : request.buffers()) {
    if (buffer->writable) {
      outputs.emplace_back(*buffer);
    }
  }
  const std::vector<int64_t> all = request.integers("pieces");
  for (size_t first = 0; first + numbers <= all.size(); first += numbers) {
    std::array<int64_t, numbers> piece;
    std::copy_n(all.begin() + first, numbers, piece.begin());
    body(piece);
    for (Shared& output : outputs) {
      output.take_what_a_piece_wrote();
    }
  }
  for (Shared& output : outputs) {
    output.give_all_back();
  }
}

} // namespace sanitized
