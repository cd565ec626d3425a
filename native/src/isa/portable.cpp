#include "instructions.h"
#include "lanes/portable.h"

namespace sc2onnx {
namespace portable {

#include "kernels/math.inl"

#include "kernels/attention.inl"
#include "kernels/rows.inl"
#include "kernels/adapters.inl"
#include "kernels/linear.inl"
#include "kernels/settle.inl"
#include "kernels/descend.inl"

}  // namespace portable

extern const Instructions kPortable;
constexpr Instructions kPortable = {
    "portable",
    {portable::round_rows, portable::product, portable::code_at, portable::scale_at,
     portable::shrink},
    portable::attention_kernels(),
    {portable::settle, portable::pull, portable::descend}};

}  // namespace sc2onnx
