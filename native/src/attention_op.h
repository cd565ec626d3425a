// The operator RingAttention.
#pragma once

#include <memory>

#include "operators.h"

namespace sc2onnx {

std::unique_ptr<Operator> ring_attention();

}  // namespace sc2onnx
