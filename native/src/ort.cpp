#include "ort.h"

namespace sc2onnx {

namespace {

std::atomic<const OrtApi *> g_ort{nullptr};  // set for each session, while others run

Tensor tensor(const OrtValue *value) {
  Tensor result;
  if (value == nullptr) return result;
  OrtTensorTypeAndShapeInfo *info = nullptr;
  check(ort().GetTensorTypeAndShape(value, &info));
  size_t rank = 0;
  OrtStatus *status = ort().GetDimensionsCount(info, &rank);
  if (status == nullptr) {
    result.shape.resize(rank);
    status = ort().GetDimensions(info, result.shape.data(), rank);
  }
  if (status == nullptr) status = ort().GetTensorElementType(info, &result.type);
  ort().ReleaseTensorTypeAndShapeInfo(info);
  check(status);
  check(ort().GetTensorMutableData(const_cast<OrtValue *>(value), &result.data));
  // a tensor of no elements may have no address, and is there all the same
  static char nothing[64];
  if (result.data == nullptr) result.data = nothing;
  return result;
}

}  // namespace

const OrtApi &ort() { return *g_ort; }
void set_ort(const OrtApi *api) { g_ort = api; }

void check(OrtStatus *status) {
  if (status == nullptr) return;
  const std::string message = ort().GetErrorMessage(status);
  ort().ReleaseStatus(status);
  throw std::runtime_error(message);
}

int64_t Tensor::size() const {
  int64_t count = 1;
  for (int64_t extent : shape) count *= extent;
  return count;
}

std::string Tensor::shown() const {
  std::string text = "(";
  for (size_t i = 0; i < shape.size(); i++) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + ")";
}

// Whether there is such an attribute, of whatever type: the interface does not tell one of another
// type from none.
bool NodeInfo::has(const char *attribute) const {
  int64_t integer = 0;
  float real = 0;
  size_t n = 0;
  bool found = false;
  const OrtApi &api = ort();
  for (OrtStatus *status : {api.KernelInfoGetAttribute_int64(info_, attribute, &integer),
                            api.KernelInfoGetAttribute_float(info_, attribute, &real),
                            api.KernelInfoGetAttribute_string(info_, attribute, nullptr, &n),
                            api.KernelInfoGetAttributeArray_int64(info_, attribute, nullptr, &n),
                            api.KernelInfoGetAttributeArray_float(info_, attribute, nullptr, &n)}) {
    found = found || status == nullptr;
    if (status != nullptr) ort().ReleaseStatus(status);
  }
  return found;
}

int64_t NodeInfo::integer(const char *name) const {
  int64_t value = 0;
  check(ort().KernelInfoGetAttribute_int64(info_, name, &value));
  return value;
}

int64_t NodeInfo::integer(const char *name, int64_t otherwise) const {
  return has(name) ? integer(name) : otherwise;
}

float NodeInfo::real(const char *name) const {
  float value = 0;
  check(ort().KernelInfoGetAttribute_float(info_, name, &value));
  return value;
}

std::string NodeInfo::input_name(size_t index) const {
  size_t size = 0;
  check(ort().KernelInfo_GetInputName(info_, index, nullptr, &size));
  std::string name(size, '\0');
  check(ort().KernelInfo_GetInputName(info_, index, name.data(), &size));
  while (!name.empty() && name.back() == '\0') name.pop_back();
  return name;
}

bool NodeInfo::has_input(size_t index) const {
  size_t count = 0;
  check(ort().KernelInfo_GetInputCount(info_, &count));
  return index < count && !input_name(index).empty();
}

Tensor NodeInfo::constant(size_t index) const {
  int is_constant = 0;
  const OrtValue *value = nullptr;
  check(ort().KernelInfoGetConstantInput_tensor(info_, index, &is_constant, &value));
  if (!is_constant || value == nullptr)
    throw Refused("input " + std::to_string(index) + " is computed, expected a weight of the file");
  return tensor(value);
}

Tensor Call::input(size_t index) const {
  size_t count = 0;
  check(ort().KernelContext_GetInputCount(context_, &count));
  if (index >= count) return {};
  const OrtValue *value = nullptr;
  check(ort().KernelContext_GetInput(context_, index, &value));
  return tensor(value);
}

Tensor Call::output(size_t index, const std::vector<int64_t> &shape) const {
  OrtValue *value = nullptr;
  check(ort().KernelContext_GetOutput(context_, index, shape.data(), shape.size(), &value));
  return tensor(value);
}

void Call::run(void (*each)(void *, size_t), size_t count, void *data) const {
  check(ort().KernelContext_ParallelFor(context_, each, count, 0, data));
}

}  // namespace sc2onnx
