// The sampling points of multi-scale deformable attention for cpu/kernels.h.

namespace flash_internimage::FLASH_INTERNIMAGE_ISA {

template <typename acc_t, typename points_t>
class Points<ms_deform_attn::Operator, acc_t, points_t> : public PointBlocks<acc_t> {
 public:
  /// A usual head in one pack, so that its points are walked once.
  static constexpr int kWidestPack = 32;

  /// A part is a range of levels. Cells are counted from the first token of the image.
  explicit Points(const Call<ms_deform_attn::Operator>& call, int32_t part = 0, int32_t parts = 1)
      : Points(
            call,
            static_cast<int64_t>(call.geometry.levels) * part / parts,
            static_cast<int64_t>(call.geometry.levels) * (part + 1) / parts,
            call.geometry.batch * call.geometry.outputs * call.geometry.groups * call.geometry.group_points) {}

  void move_to(int64_t output) {
    output_ = output;
  }
  C10_ALWAYS_INLINE void advance() {
    ++output_;
  }

  C10_ALWAYS_INLINE void locate(int32_t head) {
    const int64_t first = first_point(head);
    for_each_block<acc_t, points_t>(
        this->blocks_, {locations_ + 2 * first, locations_end_}, {weights_ + first, weights_end_},
        [](PointBlock<acc_t>& block, size_t, const points_t* pairs, const points_t* factors) {
          acc_t y[kBlock];
          acc_t x[kBlock];
          acc_t factor[kBlock];
          split_pairs(pairs, x, y);
          for (int i = 0; i < kBlock; ++i) {
            y[i] = ms_deform_attn::coordinate(y[i], block.height[i]);
            x[i] = ms_deform_attn::coordinate(x[i], block.width[i]);
            factor[i] = static_cast<acc_t>(factors[i]);
          }
          block.locate(y, x, factor);
        });
  }

  C10_ALWAYS_INLINE void write_gradients(
      const PointGradients<acc_t>& gradients, int32_t head, size_t block_index) const {
    const PointBlock<acc_t>& block = this->blocks_[block_index];
    const int64_t first = first_point(head) + static_cast<int64_t>(block_index) * kBlock;
    if (grad_locations_ != nullptr) {
      for (int i = 0; i < block.count; ++i) {
        grad_locations_[2 * (first + i)] = static_cast<points_t>(gradients.x[i] * static_cast<acc_t>(block.width[i]));
        grad_locations_[2 * (first + i) + 1] =
            static_cast<points_t>(gradients.y[i] * static_cast<acc_t>(block.height[i]));
      }
    }
    if (grad_weights_ != nullptr) {
      for (int i = 0; i < block.count; ++i) {
        grad_weights_[first + i] = static_cast<points_t>(gradients.factor[i]);
      }
    }
  }

 private:
  Points(const Call<ms_deform_attn::Operator>& call, int32_t first_level, int32_t last_level, int64_t all_points)
      : PointBlocks<acc_t>((last_level - first_level) * call.geometry.points),
        geometry_(call.geometry),
        first_of_levels_(first_level * geometry_.points),
        locations_(static_cast<const points_t*>(call.points[0])),
        locations_end_(locations_ + 2 * all_points),
        weights_(static_cast<const points_t*>(call.points[1])),
        weights_end_(weights_ + all_points),
        grad_locations_(static_cast<points_t*>(call.grad_points[0])),
        grad_weights_(static_cast<points_t*>(call.grad_points[1])) {
    for (int32_t point = 0; point < (last_level - first_level) * geometry_.points; ++point) {
      const ms_deform_attn::Level& level = geometry_.level[first_level + point / geometry_.points];
      this->blocks_[point / kBlock].place(level.height, level.width, static_cast<int32_t>(level.start));
    }
  }

  /// Elements of attention_weights before the first point; sampling_locations has twice as many.
  C10_ALWAYS_INLINE int64_t first_point(int32_t head) const {
    return (output_ * geometry_.groups + head) * geometry_.group_points + first_of_levels_;
  }

  const ms_deform_attn::Geometry& geometry_;
  int64_t first_of_levels_;
  const points_t* locations_;
  const points_t* locations_end_;
  const points_t* weights_;
  const points_t* weights_end_;
  points_t* grad_locations_;
  points_t* grad_weights_;
  int64_t output_ = 0; // the chosen one, numbered through the batch
};

} // namespace flash_internimage::FLASH_INTERNIMAGE_ISA
