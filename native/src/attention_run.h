// One step of attention: which thread takes what.
#pragma once

#include <functional>

#include "attention.h"

namespace sc2onnx {

// work(i) for i in 0 .. count - 1, on several threads and in any order. work throws nothing.
using Parallel = std::function<void(int64_t count, const std::function<void(int64_t)> &work)>;

// Stores the step's keys and values and writes what its queries see, with the same bits for any
// number of threads. Throws std::bad_alloc.
void run_attention(const Attention &, const AttentionKernels &, const Parallel &);

}  // namespace sc2onnx
