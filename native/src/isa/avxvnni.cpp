#include "instructions.h"
#include "lanes/avxvnni.h"

namespace sc2onnx {
namespace avxvnni {

#include "kernels/math.inl"

#include "kernels/attention.inl"
#include "kernels/rows.inl"
#include "kernels/adapters.inl"
#include "kernels/linear.inl"
#include "kernels/settle.inl"
#include "kernels/descend.inl"

}  // namespace avxvnni

extern const Instructions kAvxVnni;
constexpr Instructions kAvxVnni = {
    "avx-vnni",
    {avxvnni::round_rows, avxvnni::product, avxvnni::code_at, avxvnni::scale_at,
     avxvnni::shrink},
    avxvnni::attention_kernels(),
    {avxvnni::settle, avxvnni::pull, avxvnni::descend}};

}  // namespace sc2onnx
