// Which of the kernels' versions this processor runs.
#pragma once

#include <vector>

#include "attention.h"
#include "calibration.h"
#include "linear.h"

namespace sc2onnx {

struct Instructions {
  const char *name;
  LinearKernels linear;
  AttentionKernels attention;
  CalibrationKernels calibration;
};

// The best that the processor has; SC2ONNX_KERNELS in the environment
// names another one that it has.
const Instructions &instructions();

// All that this library was built with and this processor has, the best first.
std::vector<const Instructions *> available_instructions();

}  // namespace sc2onnx
