// The adapters of a product in one pass: read from the operator's inputs, checked, and cut into
// what threads compute.
#pragma once

#include <atomic>
#include <vector>

#include "adapters.h"
#include "linear.h"
#include "ort.h"

namespace sc2onnx {

// The inputs of BlockwiseLinear for adapters; see sc2onnx/bundle/kernels.py.
struct AdapterInputs {
  Tensor of_token, scales, table, weights;
};

// Memory of a thread that runs steps, kept for the next product.
class AdapterRows {
 public:
  // Whether a row has an adapter that adds to the product of this number. Then everything that
  // kernels read is within the inputs. Throws Refused.
  bool read(const AdapterInputs &inputs, int64_t rows, int64_t product, const MatrixShape &matrix);

  // For this product of rounded rows, which are there, or will be when rounded() is called.
  const Adapters &begin(const Product &product, bool there);
  void rounded() { rounded_.store(true, std::memory_order_release); }
  void wait_for_rows() const;

  // What is begun before any tile, in this order. Tiles wait for all of it when they are complete
  // but for what adapters add.
  int64_t shares() const { return (int64_t)shares_.size(); }
  void shrink(const LinearKernels &kernels, int64_t share);
  void wait() const;

 private:
  bool read_adapters(const AdapterInputs &inputs, int64_t product, const MatrixShape &matrix);
  Segments read_segments(const AdapterInputs &inputs, int64_t adapter, int64_t product,
                         const MatrixShape &matrix);
  void share(Segments segments);
  void fetch(const Shrinking &share) const;
  bool is_rounded() const { return rounded_.load(std::memory_order_acquire); }

  std::vector<int64_t> order_;  // rows, those of an adapter side by side
  std::vector<Segment> segments_;
  std::vector<Segments> of_row_, distinct_;
  std::vector<Shrinking> shares_;
  std::vector<float> inner_;
  Adapters adapters_;
  std::atomic<bool> rounded_{false};
  std::atomic<int64_t> left_{0};  // shares
};

}  // namespace sc2onnx
