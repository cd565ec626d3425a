#include "instructions.h"
#include "lanes/avx2.h"

namespace sc2onnx {
namespace avx2 {

#include "kernels/math.inl"

#include "kernels/attention.inl"
#include "kernels/rows.inl"
#include "kernels/adapters.inl"
#include "kernels/linear.inl"
#include "kernels/settle.inl"
#include "kernels/descend.inl"

}  // namespace avx2

extern const Instructions kAvx2;
constexpr Instructions kAvx2 = {
    "avx2",
    {avx2::round_rows, avx2::product, avx2::code_at, avx2::scale_at,
     avx2::shrink},
    avx2::attention_kernels(),
    {avx2::settle, avx2::pull, avx2::descend}};

}  // namespace sc2onnx
