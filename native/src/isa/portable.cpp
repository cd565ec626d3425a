#include "instructions.h"
#include "lanes/portable.h"

namespace sc2onnx {
namespace portable {

#include "kernels/math.inl"

#include "kernels/attention.inl"
#include "kernels/rows.inl"
#include "kernels/adapters.inl"
#include "kernels/linear.inl"

}  // namespace portable

extern const Instructions kPortable;
constexpr Instructions kPortable = {
    "portable",
    {portable::round_rows, portable::product, portable::code_at, portable::scale_at,
     portable::shrink},
    portable::attention_kernels()};

}  // namespace sc2onnx
