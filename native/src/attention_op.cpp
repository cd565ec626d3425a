#include "attention_op.h"

namespace sc2onnx {

std::unique_ptr<Operator> ring_attention() {
  return std::make_unique<Operator>("RingAttention", Ports{{}, {}, 0}, nullptr);
}

}  // namespace sc2onnx
