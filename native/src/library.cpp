// What the library exports: the registration of its operators, and functions
// for whoever packs weights.

#include <mutex>
#include <string>
#include <vector>

#include "attention_op.h"
#include "calibration.h"
#include "instructions.h"
#include "linear_op.h"
#include "packing.h"

#if defined(_WIN32)
#define SC2ONNX_EXPORT extern "C" __declspec(dllexport)
#else
#define SC2ONNX_EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace sc2onnx {

namespace {

// The operators over the weights of one session. ONNX Runtime keeps no hold of them,
// and says nobody when a session ends, so they stay: some hundred bytes, and the
// packed file as it is mapped.
struct Domain {
  std::string packed;
  std::vector<std::unique_ptr<Operator>> operators;
  OrtCustomOpDomain *domain = nullptr;

  Domain(std::string path, int threads) : packed(std::move(path)) {
    operators.push_back(blockwise_linear(std::make_shared<Weights>(packed, threads)));
    operators.push_back(ring_attention());
    check(ort().CreateCustomOpDomain("sc2onnx", &domain));
    for (const auto &each : operators) check(ort().CustomOpDomain_Add(domain, each.get()));
  }
};

std::string entry(const OrtSessionOptions *options, const char *key) {
  int there = 0;
  check(ort().HasSessionConfigEntry(options, key, &there));
  if (!there) return {};
  size_t size = 0;
  check(ort().GetSessionConfigEntry(options, key, nullptr, &size));
  std::string value(size, '\0');
  check(ort().GetSessionConfigEntry(options, key, value.data(), &size));
  while (!value.empty() && value.back() == '\0') value.pop_back();
  return value;
}

int threads_of(const OrtSessionOptions *options) {
  const std::string text = entry(options, "sc2onnx.threads");
  int threads = 0;
  for (char digit : text)
    threads =
        digit >= '0' && digit <= '9' && threads < 1000 ? threads * 10 + (digit - '0') : threads;
  return threads < 1 ? 1 : threads;
}

void register_operators(OrtSessionOptions *options) {
  static std::mutex lock;
  static auto &kept = *new std::vector<std::unique_ptr<Domain>>;  // also when the process ends
  auto domain = std::make_unique<Domain>(entry(options, "sc2onnx.packed"), threads_of(options));
  const std::lock_guard<std::mutex> held(lock);
  kept.push_back(std::move(domain));
  check(ort().AddCustomOpDomain(options, kept.back()->domain));
}

}  // namespace

}  // namespace sc2onnx

// Called by ONNX Runtime for register_custom_ops_library. The session configuration may
// say `sc2onnx.packed`, a file of packed weights, and `sc2onnx.threads`, how many threads
// pack where there is none.
SC2ONNX_EXPORT OrtStatus *RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base) {
  const OrtApi *api = base->GetApi(ORT_API_VERSION);
  if (api == nullptr) {
    const OrtApi *first = base->GetApi(1);
    const std::string needed = "1." + std::to_string(ORT_API_VERSION);
    const std::string message =
        "sc2onnx-kernels needs ONNX Runtime " + needed + ", this is " + base->GetVersionString();
    return first->CreateStatus(ORT_FAIL, message.c_str());
  }
  sc2onnx::set_ort(api);
  return sc2onnx::guarded([&] { sc2onnx::register_operators(options); });
}

SC2ONNX_EXPORT const char *sc2onnx_kernels_instructions(void) {
  return sc2onnx::instructions().name;
}

SC2ONNX_EXPORT int32_t sc2onnx_kernels_layout(void) { return sc2onnx::kLayout; }

// Bytes of a packed matrix; -1 for one that the kernels do not compute with.
SC2ONNX_EXPORT int64_t sc2onnx_kernels_packed_bytes(int64_t n, int64_t k, int32_t bits,
                                                    int32_t block_size, int32_t scale_bytes) {
  const sc2onnx::MatrixShape matrix{n, k, bits, block_size, scale_bytes};
  return matrix.fits() ? matrix.bytes() : -1;
}

// Packs codes (n, k / block_size, block_size * bits / 8) and scales (n, k / block_size), float32 of
// 4 bytes or bfloat16 of 2, into out, with so many threads. 0 when it is done.
SC2ONNX_EXPORT int32_t sc2onnx_kernels_pack(const void *codes, const void *scales, int64_t n,
                                            int64_t k, int32_t bits, int32_t block_size,
                                            int32_t scale_bytes, int32_t threads, void *out) {
  const sc2onnx::MatrixShape matrix{n, k, bits, block_size, scale_bytes};
  if (!matrix.fits()) return 1;
  try {
    sc2onnx::pack(matrix, static_cast<const uint8_t *>(codes), scales, threads,
                  static_cast<uint8_t *>(out));
    return 0;
  } catch (...) {
    return 2;
  }
}

// y (rows, n) = x (rows, k) times weights that sc2onnx_kernels_pack() packed, which begin at a
// multiple of 64 bytes, plus bias (n,) unless that is null, through GELU if `gelu` is not 0. To the
// bit what BlockwiseLinear computes. 0 when it is done.
SC2ONNX_EXPORT int32_t sc2onnx_kernels_multiply(const void *weights, int64_t n, int64_t k,
                                                int32_t bits, int32_t block_size,
                                                int32_t scale_bytes, const float *x, int64_t rows,
                                                const float *bias, int32_t gelu, int32_t threads,
                                                float *y) {
  const sc2onnx::MatrixShape matrix{n, k, bits, block_size, scale_bytes};
  if (!matrix.fits() || rows < 0 || (uintptr_t)weights % 64 != 0) return 1;
  try {
    sc2onnx::multiply({matrix, static_cast<const uint8_t *>(weights), x, rows, bias, gelu != 0, y},
                      threads);
    return 0;
  } catch (...) {
    return 2;
  }
}

// Rounds `columns` (16 at most) columns of a matrix from the last to the first; see calibration.h.
// aims: (columns, outputs). 0 when it is done.
SC2ONNX_EXPORT int32_t sc2onnx_kernels_settle(int64_t columns, int64_t outputs, float *aims,
                                              const float *target, float *codes, float *errors,
                                              int64_t stride, float *changes,
                                              int64_t changes_stride, const float *scales,
                                              const float *steps, int64_t steps_stride,
                                              float lowest, float highest) {
  if (columns < 0 || columns > sc2onnx::kSettled || outputs < 0) return 1;
  sc2onnx::Settling settling;
  settling.columns = columns;
  settling.outputs = outputs;
  settling.aims = aims;
  settling.target = target;
  settling.codes = codes;
  settling.errors = errors;
  settling.changes = changes;
  settling.scales = scales;
  settling.steps = steps;
  settling.stride = stride;
  settling.changes_stride = changes_stride;
  settling.steps_stride = steps_stride;
  settling.lowest = lowest;
  settling.highest = highest;
  sc2onnx::instructions().calibration.settle(settling);
  return 0;
}

// One round of coordinate descent for outputs first .. end; see calibration.h for the arrays.
// 0 when it is done.
SC2ONNX_EXPORT int32_t sc2onnx_kernels_descend(int64_t inputs, int64_t outputs, int64_t block,
                                               int64_t first, int64_t end, const float *covariance,
                                               const float *target, float *codes, float *errors,
                                               float *scales, const float *shares, float lowest,
                                               float highest, int32_t threads) {
  const bool blocks_fit = block >= 1 && block <= sc2onnx::kWidestBlock && inputs % block == 0;
  if (!blocks_fit || first < 0 || first > end || end > outputs) return 1;
  try {
    sc2onnx::descend({inputs, outputs, block, first, end, covariance, target, codes, errors, scales,
                      shares, lowest, highest},
                     threads);
    return 0;
  } catch (...) {
    return 2;
  }
}
