// The sampling points of DCNv4 for cpu/kernels.h.

namespace flash_internimage::FLASH_INTERNIMAGE_ISA {

template <typename acc_t, typename offset_t>
class Points<dcnv4::Operator, acc_t, offset_t> : public PointBlocks<acc_t> {
 public:
  /// A part is a band of rows: of input rows for the gradient of value, of output rows for that of offset_mask.
  explicit Points(const Call<dcnv4::Operator>& call, int32_t part = 0, int32_t parts = 1)
      : PointBlocks<acc_t>(call.geometry.group_points),
        geometry_(call.geometry),
        first_input_row_(band_start(geometry_.height.size, part, parts)),
        last_input_row_(band_start(geometry_.height.size, part + 1, parts)),
        first_output_row_(band_start(geometry_.height.output_size, part, parts)),
        last_output_row_(band_start(geometry_.height.output_size, part + 1, parts)),
        offset_mask_(static_cast<const offset_t*>(call.points[0])),
        end_(offset_mask_ + geometry_.batch * geometry_.outputs * geometry_.offset_mask_channels),
        grad_offset_mask_(static_cast<offset_t*>(call.grad_points[0])),
        offset_scale_(static_cast<acc_t>(geometry_.offset_scale)),
        tap_y_(this->blocks_.size() * kBlock),
        tap_x_(this->blocks_.size() * kBlock) {
    for (int32_t point = 0; point < geometry_.group_points; ++point) {
      const dcnv4::Tap place = tap(geometry_, point);
      tap_y_[point] = static_cast<acc_t>(place.y);
      tap_x_[point] = static_cast<acc_t>(place.x);
      this->blocks_[point / kBlock].place(geometry_.height.size, geometry_.width.size, 0);
    }
  }

  void move_to(int64_t output) {
    output_ = output;
    column_ = output % geometry_.width.output_size;
    row_ = output / geometry_.width.output_size % geometry_.height.output_size;
  }

  C10_ALWAYS_INLINE void advance() {
    ++output_;
    if (++column_ == geometry_.width.output_size) {
      column_ = 0;
      row_ = row_ + 1 == geometry_.height.output_size ? 0 : row_ + 1;
    }
  }

  C10_ALWAYS_INLINE void locate(int32_t group) {
    const offset_t* offsets = offset_mask_ + first_element(group);
    const offset_t* modulations = offsets + 2 * int64_t(geometry_.group_points);
    const acc_t center_y = static_cast<acc_t>(window_center(geometry_.height, row_));
    const acc_t center_x = static_cast<acc_t>(window_center(geometry_.width, column_));
    for_each_block<acc_t, offset_t>(
        this->blocks_, {offsets, end_}, {modulations, end_},
        [&](PointBlock<acc_t>& block, size_t index, const offset_t* pairs, const offset_t* factors) {
          const acc_t* tap_y = tap_y_.data() + index * kBlock;
          const acc_t* tap_x = tap_x_.data() + index * kBlock;
          const acc_t offset_scale = offset_scale_;
          acc_t y[kBlock];
          acc_t x[kBlock];
          acc_t factor[kBlock];
          split_pairs(pairs, x, y);
          for (int i = 0; i < kBlock; ++i) {
            y[i] = dcnv4::coordinate(center_y, tap_y[i], y[i], offset_scale);
            x[i] = dcnv4::coordinate(center_x, tap_x[i], x[i], offset_scale);
            factor[i] = static_cast<acc_t>(factors[i]);
          }
          block.locate(y, x, factor);
        });
  }

  /// Prefetches the cell below the window, if the feature map has one: learned offsets make the order in which points
  /// first reach a row unpredictable to the hardware's prefetchers.
  template <bool is_written, typename scalar_t>
  C10_ALWAYS_INLINE void prefetch(const scalar_t* map) const {
    const int64_t y = window_center(geometry_.height, row_) + geometry_.height.center() + kRowsAhead;
    const int64_t x = window_center(geometry_.width, column_);
    if (y < 0 || y >= geometry_.height.size || x < 0 || x >= geometry_.width.size) {
      return;
    }
    const scalar_t* cell = map + (y * geometry_.width.size + x) * geometry_.channels();
    for (int64_t channel = 0; channel < geometry_.group_channels; channel += kLineBytes / sizeof(scalar_t)) {
      __builtin_prefetch(cell + channel, is_written);
    }
  }

  int64_t first_owned(int64_t) const {
    return static_cast<int64_t>(first_output_row_) * geometry_.width.output_size;
  }
  int64_t last_owned(int64_t) const {
    return static_cast<int64_t>(last_output_row_) * geometry_.width.output_size;
  }
  bool owns_all_corners() const {
    return first_input_row_ == 0 && last_input_row_ == geometry_.height.size;
  }
  PointBlock<acc_t> owned(const PointBlock<acc_t>& block) const {
    return block.restricted(first_input_row_, last_input_row_);
  }

  C10_ALWAYS_INLINE void write_gradients(
      const PointGradients<acc_t>& gradients, int32_t group, size_t block_index) const {
    offset_t* grad_group = grad_offset_mask_ + first_element(group);
    offset_t* grad_offsets = grad_group + 2 * kBlock * block_index;
    offset_t* grad_modulations = grad_group + 2 * int64_t(geometry_.group_points) + kBlock * block_index;
    for (int i = 0; i < this->blocks_[block_index].count; ++i) {
      grad_offsets[2 * i] = static_cast<offset_t>(gradients.x[i] * offset_scale_);
      grad_offsets[2 * i + 1] = static_cast<offset_t>(gradients.y[i] * offset_scale_);
      grad_modulations[i] = static_cast<offset_t>(gradients.factor[i]);
    }
  }

 private:
  static constexpr int64_t kLineBytes = 64;
  /// Rows below the window's last tap that few points reach.
  static constexpr int64_t kRowsAhead = 3;

  static int32_t band_start(int64_t rows, int64_t part, int64_t parts) {
    return static_cast<int32_t>(rows * part / parts);
  }

  /// Of a group's slice of offset_mask, for the chosen output.
  C10_ALWAYS_INLINE int64_t first_element(int32_t group) const {
    return output_ * geometry_.offset_mask_channels + int64_t(3) * geometry_.group_points * group;
  }

  const dcnv4::Geometry& geometry_;
  int32_t first_input_row_;
  int32_t last_input_row_;
  int32_t first_output_row_;
  int32_t last_output_row_;
  const offset_t* offset_mask_;
  const offset_t* end_;
  offset_t* grad_offset_mask_;
  acc_t offset_scale_;
  std::vector<acc_t> tap_y_;
  std::vector<acc_t> tap_x_;
  // Where the chosen output lies: through the batch, and in its image.
  int64_t output_ = 0;
  int64_t row_ = 0;
  int64_t column_ = 0;
};

} // namespace flash_internimage::FLASH_INTERNIMAGE_ISA
