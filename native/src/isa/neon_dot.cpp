#include "instructions.h"
#include "lanes/neon_dot.h"

namespace sc2onnx {
namespace neondot {

#include "kernels/math.inl"

#include "kernels/attention.inl"
#include "kernels/rows.inl"
#include "kernels/adapters.inl"
#include "kernels/linear.inl"
#include "kernels/settle.inl"
#include "kernels/descend.inl"

}  // namespace neondot

extern const Instructions kNeonDot;
constexpr Instructions kNeonDot = {
    "neon-dot",
    {neondot::round_rows, neondot::product, neondot::code_at, neondot::scale_at,
     neondot::shrink},
    neondot::attention_kernels(),
    {neondot::settle, neondot::pull, neondot::descend}};

}  // namespace sc2onnx
