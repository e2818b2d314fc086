#include "dcnv4.h"

#include "../autograd/checks.h"

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

namespace flash_internimage::dcnv4 {

namespace {

using autograd::kMaximum;

void check_pair(const char* name, at::IntArrayRef pair, int64_t minimum) {
  TORCH_CHECK_VALUE(
      pair.size() == 2 && pair[0] >= minimum && pair[1] >= minimum && pair[0] <= kMaximum && pair[1] <= kMaximum,
      "dcnv4: ", name, " needs a (height, width) pair of integers of at least ", minimum, ", got ", pair);
}

Axis check_axis(
    const char* name,
    int64_t size,
    int64_t output_size,
    int64_t kernel_size,
    int64_t stride,
    int64_t padding,
    int64_t dilation,
    const at::Tensor& offset_mask) {
  // The products stay below 2^62, and what is kept is checked to fit 32 bits.
  const int64_t window = dilation * (kernel_size - 1) + 1;
  const int64_t padded = size + 2 * padding;
  TORCH_CHECK_VALUE(
      size <= kMaximum && window <= kMaximum && padded <= kMaximum, "dcnv4: ", name,
      " of value and of the dilated kernel must stay below 2^31 cells, got ", size, " (", padded, " with padding) and ",
      window);
  TORCH_CHECK_VALUE(
      window <= padded, "dcnv4: the dilated kernel must fit the padded value, got a kernel of ", window, " on ", padded,
      " cells (", size, " + 2 x padding ", padding, ") in ", name,
      "; use more padding or a smaller kernel_size or dilation");
  const int64_t expected = (padded - window) / stride + 1;
  TORCH_CHECK_VALUE(
      output_size == expected, "dcnv4: offset_mask needs a ", name, " of ", expected, ", got ", output_size,
      " in shape ", offset_mask.sizes());
  return {static_cast<int32_t>(size),   static_cast<int32_t>(output_size), static_cast<int32_t>(kernel_size),
          static_cast<int32_t>(stride), static_cast<int32_t>(padding),     static_cast<int32_t>(dilation)};
}

} // namespace

Geometry Operator::check(
    const at::Tensor& value,
    const at::Tensor& offset_mask,
    at::IntArrayRef kernel_size,
    at::IntArrayRef stride,
    at::IntArrayRef padding,
    at::IntArrayRef dilation,
    int64_t groups,
    double offset_scale,
    bool remove_center) {
  TORCH_CHECK_VALUE(
      value.dim() == 4, "dcnv4: value needs the shape (batch, height, width, channels), got ", value.sizes());
  TORCH_CHECK_VALUE(
      offset_mask.dim() == 4, "dcnv4: offset_mask needs the shape (batch, output height, output width, channels), got ",
      offset_mask.sizes());
  autograd::check_value_dtype(kName, value);
  autograd::check_points(kName, kPointTensors[0], offset_mask, value);

  check_pair("kernel_size", kernel_size, 1);
  check_pair("stride", stride, 1);
  check_pair("padding", padding, 0);
  check_pair("dilation", dilation, 1);
  TORCH_CHECK_VALUE(
      !remove_center || (kernel_size[0] % 2 == 1 && kernel_size[1] % 2 == 1),
      "dcnv4: remove_center needs a kernel_size with a center, so odd numbers, got ", kernel_size);
  TORCH_CHECK_VALUE(groups >= 1, "dcnv4: groups needs to be at least 1, got ", groups);
  TORCH_CHECK_VALUE(
      value.size(3) % groups == 0 && value.size(3) / groups <= kMaximum && groups <= kMaximum,
      "dcnv4: value needs a number of channels that groups (", groups, ") divides, got ", value.size(3), " in shape ",
      value.sizes());
  TORCH_CHECK_VALUE(
      offset_mask.size(0) == value.size(0), "dcnv4: offset_mask needs a batch size of ", value.size(0), ", got ",
      offset_mask.size(0), " in shape ", offset_mask.sizes());

  const Axis height = check_axis(
      "height", value.size(1), offset_mask.size(1), kernel_size[0], stride[0], padding[0], dilation[0], offset_mask);
  const Axis width = check_axis(
      "width", value.size(2), offset_mask.size(2), kernel_size[1], stride[1], padding[1], dilation[1], offset_mask);
  TORCH_CHECK_VALUE(
      (value.size(1) + 1) * (value.size(2) + 1) <= kMaximum,
      "dcnv4: value needs fewer than 2^31 cells in an image, got ", value.size(1), " x ", value.size(2));
  const int64_t points = kernel_size[0] * kernel_size[1] - (remove_center ? 1 : 0);
  // Division first: the product of three such numbers may not fit 64 bits.
  TORCH_CHECK_VALUE(
      points <= kMaximum && offset_mask.size(3) / 3 / groups >= points, "dcnv4: offset_mask needs at least ",
      3 * points * groups, " channels (3 x ", points, " points x ", groups, " groups), got ", offset_mask.size(3),
      " in shape ", offset_mask.sizes());
  const Sizes sizes = {
      value.size(0),
      value.size(1) * value.size(2),
      offset_mask.size(1) * offset_mask.size(2),
      static_cast<int32_t>(groups),
      static_cast<int32_t>(value.size(3) / groups),
      static_cast<int32_t>(points)};
  return {sizes, height, width, offset_mask.size(3), offset_scale, remove_center};
}

} // namespace flash_internimage::dcnv4
