#include "instructions.h"
#include "lanes/avx512vnni.h"

namespace sc2onnx {
namespace avx512vnni {

#include "kernels/math.inl"

#include "kernels/attention.inl"
#include "kernels/rows.inl"
#include "kernels/adapters.inl"
#include "kernels/linear.inl"
#include "kernels/settle.inl"
#include "kernels/descend.inl"

}  // namespace avx512vnni

extern const Instructions kAvx512Vnni;
constexpr Instructions kAvx512Vnni = {
    "avx512-vnni",
    {avx512vnni::round_rows, avx512vnni::product, avx512vnni::code_at, avx512vnni::scale_at,
     avx512vnni::shrink},
    avx512vnni::attention_kernels(),
    {avx512vnni::settle, avx512vnni::pull, avx512vnni::descend}};

}  // namespace sc2onnx
