#include "instructions.h"
#include "lanes/neon_i8mm.h"

namespace sc2onnx {
namespace neoni8mm {

#include "kernels/math.inl"

#include "kernels/attention.inl"
#include "kernels/rows.inl"
#include "kernels/adapters.inl"
#include "kernels/linear.inl"
#include "kernels/settle.inl"
#include "kernels/descend.inl"

}  // namespace neoni8mm

extern const Instructions kNeonI8mm;
constexpr Instructions kNeonI8mm = {
    "neon-i8mm",
    {neoni8mm::round_rows, neoni8mm::product, neoni8mm::code_at, neoni8mm::scale_at,
     neoni8mm::shrink},
    neoni8mm::attention_kernels(),
    {neoni8mm::settle, neoni8mm::pull, neoni8mm::descend}};

}  // namespace sc2onnx
