#pragma once
namespace sc2onnx {
struct AttentionKernels {};
}  // namespace sc2onnx
