#include "operators.h"

namespace sc2onnx {

Operator::Operator(const char *name, Ports ports, MakeKernel make)
    : OrtCustomOp{}, name_(name), ports_(std::move(ports)), make_(std::move(make)) {
  version = ORT_API_VERSION;
  OrtCustomOp::GetName = [](const OrtCustomOp *op) { return of(op).name_; };
  GetExecutionProviderType = [](const OrtCustomOp *) { return "CPUExecutionProvider"; };
  GetInputTypeCount = [](const OrtCustomOp *op) { return of(op).ports_.inputs.size(); };
  GetInputType = [](const OrtCustomOp *op, size_t i) { return of(op).ports_.inputs[i]; };
  GetOutputTypeCount = [](const OrtCustomOp *op) { return of(op).ports_.outputs.size(); };
  GetOutputType = [](const OrtCustomOp *op, size_t i) { return of(op).ports_.outputs[i]; };
  GetInputCharacteristic = [](const OrtCustomOp *op, size_t i) {
    return i < of(op).ports_.required ? INPUT_OUTPUT_REQUIRED : INPUT_OUTPUT_OPTIONAL;
  };
  GetOutputCharacteristic = [](const OrtCustomOp *, size_t) { return INPUT_OUTPUT_REQUIRED; };
  GetInputMemoryType = [](const OrtCustomOp *, size_t) { return OrtMemTypeDefault; };
  GetVariadicInputMinArity = GetVariadicOutputMinArity = [](const OrtCustomOp *) { return 1; };
  GetVariadicInputHomogeneity =
      GetVariadicOutputHomogeneity = [](const OrtCustomOp *) { return 1; };
  GetStartVersion = GetEndVersion = [](const OrtCustomOp *) { return 1; };
  CreateKernelV2 = [](const OrtCustomOp *op, const OrtApi *, const OrtKernelInfo *info,
                      void **kernel) {
    return guarded([&] { *kernel = of(op).make_(NodeInfo(info)).release(); });
  };
  KernelComputeV2 = [](void *kernel, OrtKernelContext *context) {
    return guarded([&] { static_cast<const Kernel *>(kernel)->compute(Call(context)); });
  };
  KernelDestroy = [](void *kernel) { delete static_cast<Kernel *>(kernel); };
}

}  // namespace sc2onnx
