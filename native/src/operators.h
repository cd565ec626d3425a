// Operators as ONNX Runtime asks for them, over kernels written as classes.
#pragma once

#include <functional>
#include <memory>

#include "ort.h"

namespace sc2onnx {

// What a node becomes when a session is made: it holds what does not change and computes a step.
class Kernel {
 public:
  virtual ~Kernel() = default;
  virtual void compute(const Call &call) const = 0;  // several threads at once
};

// The types of an operator's inputs and outputs; inputs from `required` on may be left out.
struct Ports {
  std::vector<ONNXTensorElementDataType> inputs, outputs;
  size_t required;
};

using MakeKernel = std::function<std::unique_ptr<Kernel>(const NodeInfo &)>;

// One entry of a domain. It must outlive the sessions that use it.
class Operator : public OrtCustomOp {
 public:
  Operator(const char *name, Ports ports, MakeKernel make);
  Operator(const Operator &) = delete;
  Operator &operator=(const Operator &) = delete;

 private:
  static const Operator &of(const OrtCustomOp *op) { return *static_cast<const Operator *>(op); }
  const char *name_;
  Ports ports_;
  MakeKernel make_;
};

}  // namespace sc2onnx
