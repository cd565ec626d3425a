#include "linear_op.h"

#include <algorithm>
#include <cmath>

#include "adapter_rows.h"
#include "instructions.h"
#include "rounded_rows.h"

namespace sc2onnx {

namespace {

enum Input {
  kX,
  kCodes,
  kScales,
  kBias,
  kNormWeight,
  kNormBias,
  kResidual,
  kAdapterOfToken,
  kAdapterScales,
  kAdapterTable,
  kAdapterWeights,
  kInputs
};

void expect(const Tensor &tensor, const std::vector<int64_t> &shape, const char *name) {
  if (tensor.shape == shape) return;
  Tensor expected;
  expected.shape = shape;
  throw Refused(std::string("BlockwiseLinear: ") + name + " is " + tensor.shown() + ", expected " +
                expected.shown());
}

int32_t scale_bytes(const Tensor &scales) {
  if (scales.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) return 4;
  if (scales.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16) return 2;
  throw Refused("BlockwiseLinear: scales are of type " + std::to_string((int)scales.type) +
                ", expected float or bfloat16");
}

class BlockwiseLinear : public Kernel {
 public:
  BlockwiseLinear(const NodeInfo &node, const Weights &weights) {
    const int64_t bits = node.integer("bits"), block = node.integer("block_size");
    const Tensor codes = node.constant(kCodes), scales = node.constant(kScales);
    matrix_ = {node.integer("N"), node.integer("K"), (int32_t)bits, (int32_t)block,
               scale_bytes(scales)};
    if (matrix_.bits != bits || matrix_.block != block || !matrix_.fits())
      throw Refused(
          "BlockwiseLinear: N = " + std::to_string(matrix_.outputs) +
          ", K = " + std::to_string(matrix_.inputs) + ", bits = " + std::to_string(bits) +
          ", block_size = " + std::to_string(block) +
          ", expected 4 or 8 bits, blocks of 16, 32, 64, 128 or 256 and K a multiple of them");
    gelu_ = node.integer("gelu", 0) != 0;
    read_activation_bits(node);
    if (node.has_input(kNormWeight) != node.has_input(kNormBias))
      throw Refused("BlockwiseLinear: one of norm_weight and norm_bias, expected both or none");
    if (node.has_input(kNormWeight)) epsilon_ = node.real("epsilon");
    if (!(epsilon_ >= 0 && std::isfinite(epsilon_)))
      throw Refused("BlockwiseLinear: epsilon = " + std::to_string(epsilon_) +
                    ", expected a number of 0 or more");
    read_product(node);
    expect(codes, {matrix_.outputs, matrix_.blocks(), (int64_t)matrix_.block * matrix_.bits / 8},
           "codes");
    if (scales.size() != matrix_.outputs * matrix_.blocks())
      expect(scales, {matrix_.outputs, matrix_.blocks()}, "scales");
    weights_ =
        weights.matrix(node.input_name(kCodes), matrix_, codes.as<uint8_t>(), scales.data);
  }

  void compute(const Call &call) const override {
    const Tensor x = call.input(kX), bias = call.input(kBias),
                 norm_weight = call.input(kNormWeight), norm_bias = call.input(kNormBias),
                 residual = call.input(kResidual);
    if (x.shape.size() != 2 || x.shape[1] != matrix_.inputs)
      throw Refused("BlockwiseLinear: x is " + x.shown() + ", expected (tokens, " +
                    std::to_string(matrix_.inputs) + ")");
    const int64_t rows = x.shape[0];
    if (bias) expect(bias, {matrix_.outputs}, "bias");
    if (norm_weight) {
      expect(norm_weight, {matrix_.inputs}, "norm_weight");
      expect(norm_bias, {matrix_.inputs}, "norm_bias");
    }
    if (residual) expect(residual, {rows, matrix_.outputs}, "residual");
    const Tensor y = call.output(0, {rows, matrix_.outputs});
    if (rows == 0) return;

    // one for each thread that runs steps, kept for the next product
    static thread_local RoundedRows rounded;
    static thread_local AdapterRows adapters;
    const bool adapted = read_adapters(call, rows, adapters);
    Rounding rounding = rounded.rounding(x.as<float>(), rows, matrix_);
    rounding.norm_weight = norm_weight.as<float>();
    rounding.norm_bias = norm_bias.as<float>();
    rounding.epsilon = epsilon_;

    Product product = rounded.product(weights_.get(), rows, matrix_, y.as<float>());
    product.bias = bias.as<float>();
    product.residual = residual.as<float>();
    product.gelu = gelu_;
    if (adapted) return multiply_adapted(call, rounding, product, adapters);
    if (fine_) return multiply_finely(call, rounding, product);
    round(call, rounding);
    multiply(call, product);
  }

 private:
  static constexpr int64_t kTogether = 8;      // tiles of a task
  static constexpr int64_t kRowsTogether = 8;  // rows that are rounded by one thread

  // The product's number in the table of adapters.
  void read_product(const NodeInfo &node) {
    product_ = node.integer("product", -1);
    const bool first = node.has_input(kAdapterOfToken);
    for (size_t input = kAdapterOfToken; input < kInputs; input++)
      if (node.has_input(input) != first)
        throw Refused("BlockwiseLinear: some inputs of adapters, expected all four or none");
    if (first != (product_ >= 0))
      throw Refused("BlockwiseLinear: product = " + std::to_string(product_) +
                    ", expected a number of 0 or more with adapters, and none without");
  }

  void read_activation_bits(const NodeInfo &node) {
    const int64_t bits = node.integer("activation_bits", 8);
    fine_ = bits == 16;
    const bool more = gelu_ || node.has_input(kResidual) || node.has_input(kAdapterOfToken);
    if (bits != 8 && (!fine_ || more))
      throw Refused("BlockwiseLinear: activation_bits = " + std::to_string(bits) +
                    ", expected 8, or 16 without gelu, residual and adapters");
  }

  // Whether any row has an adapter.
  bool read_adapters(const Call &call, int64_t rows, AdapterRows &adapters) const {
    if (product_ < 0) return false;
    const Tensor of_token = call.input(kAdapterOfToken);
    if (!of_token || of_token.size() == 0) return false;
    const AdapterInputs inputs{of_token, call.input(kAdapterScales), call.input(kAdapterTable),
                               call.input(kAdapterWeights)};
    return adapters.read(inputs, rows, product_, matrix_);
  }

  int64_t tasks() const { return (matrix_.tiles() + kTogether - 1) / kTogether; }

  void some_tiles(const Product &product, int64_t task) const {
    const int64_t first = task * kTogether;
    kernels_.product(product, first, std::min(matrix_.tiles(), first + kTogether));
  }

  void multiply(const Call &call, const Product &product) const {
    call.parallel(tasks(), [&](int64_t i) { some_tiles(product, i); });
  }

  // Activations are the sum of two roundings: each tile is multiplied with both while it is in a
  // core's cache.
  void multiply_finely(const Call &call, Rounding rounding, const Product &product) const {
    static thread_local RoundedRows finer;
    static thread_local std::vector<float> rest;
    rest.resize((size_t)(rounding.rows * matrix_.inputs));
    rounding.rest = rest.data();
    const Rounding second = finer.rounding(rest.data(), rounding.rows, matrix_);
    in_rows(call, rounding.rows, [&](int64_t first, int64_t end) {
      kernels_.round_rows(rounding, first, end);
      kernels_.round_rows(second, first, end);
    });
    Product fine = finer.product(product.weights, product.rows, matrix_, product.y);
    fine.residual = product.y;
    call.parallel(tasks(), [&](int64_t i) {
      some_tiles(product, i);
      some_tiles(fine, i);
    });
  }

  // What tiles need is begun first: few rows are rounded, A x is multiplied. A thread that goes on
  // waits for what others have begun when it needs that: rows at once, A x at the end of a tile.
  void multiply_adapted(const Call &call, const Rounding &rounding, Product product,
                        AdapterRows &adapters) const {
    const bool few = rounding.rows <= kRowsTogether;
    if (!few) round(call, rounding);
    product.adapters = &adapters.begin(product, !few);
    const int64_t first = few ? 1 : 0, shares = adapters.shares();
    call.parallel(first + shares + tasks(), [&](int64_t i) {
      if (i < first) {
        kernels_.round_rows(rounding, 0, rounding.rows);
        return adapters.rounded();
      }
      if (i < first + shares) return adapters.shrink(kernels_, i - first);
      adapters.wait_for_rows();
      some_tiles(product, i - first - shares);
    });
  }

  void round(const Call &call, const Rounding &rounding) const {
    in_rows(call, rounding.rows, [&](int64_t first, int64_t end) {
      kernels_.round_rows(rounding, first, end);
    });
  }

  // work(first, end) for all rows, some at a time.
  template <class Work>
  void in_rows(const Call &call, int64_t rows, const Work &work) const {
    call.parallel((rows + kRowsTogether - 1) / kRowsTogether, [&](int64_t i) {
      work(i * kRowsTogether, std::min(rows, (i + 1) * kRowsTogether));
    });
  }

  MatrixShape matrix_;
  bool gelu_ = false, fine_ = false;
  float epsilon_ = 0;
  int64_t product_ = -1;
  PackedMatrix weights_;
  LinearKernels kernels_ = instructions().linear;
};

}  // namespace

std::unique_ptr<Operator> blockwise_linear(std::shared_ptr<const Weights> weights) {
  constexpr auto kFloat = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  std::vector<ONNXTensorElementDataType> inputs(kInputs, kFloat);
  inputs[kCodes] = ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
  inputs[kScales] = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;  // float or bfloat16
  inputs[kAdapterOfToken] = inputs[kAdapterTable] = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
  inputs[kAdapterWeights] = ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
  return std::make_unique<Operator>("BlockwiseLinear", Ports{inputs, {kFloat}, kBias},
                                    [weights](const NodeInfo &node) {
                                      return std::make_unique<BlockwiseLinear>(node, *weights);
                                    });
}

}  // namespace sc2onnx
