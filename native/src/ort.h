// The part of ONNX Runtime's C interface that operators need, with errors as exceptions.
//
// Only the C header is used: the library has no binary interface but ONNX Runtime's versioned one.
// Exceptions never leave the library: guarded() turns them into a status.
#pragma once

#include <onnxruntime_c_api.h>

#include <atomic>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

namespace sc2onnx {

// The table of functions of the ONNX Runtime that loaded the library.
const OrtApi &ort();
void set_ort(const OrtApi *api);

// Throws what a status says, and frees it.
void check(OrtStatus *status);

// What an operator found and what it expected, which becomes the status of its call.
class Refused : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

template <class Work>
OrtStatus *guarded(Work &&work) noexcept {
  try {
    work();
    return nullptr;
  } catch (const Refused &error) {
    return ort().CreateStatus(ORT_INVALID_ARGUMENT, error.what());
  } catch (const std::bad_alloc &) {
    return ort().CreateStatus(ORT_FAIL, "sc2onnx kernels: not enough memory");
  } catch (const std::exception &error) {
    return ort().CreateStatus(ORT_FAIL, error.what());
  } catch (...) {
    return ort().CreateStatus(ORT_FAIL, "sc2onnx kernels: unknown error");
  }
}

// A tensor that a kernel is given or gives. An omitted one has no data.
struct Tensor {
  std::vector<int64_t> shape;
  void *data = nullptr;
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;

  explicit operator bool() const { return data != nullptr; }
  int64_t size() const;  // elements
  std::string shown() const;  // its shape, such as "(2, 16)"
  template <class T>
  T *as() const {
    return static_cast<T *>(data);
  }
};

// The attributes and constants of a node, when its kernel is made.
class NodeInfo {
 public:
  explicit NodeInfo(const OrtKernelInfo *info) : info_(info) {}
  int64_t integer(const char *name) const;
  int64_t integer(const char *name, int64_t otherwise) const;  // `otherwise` if it is left out
  float real(const char *name) const;
  std::string input_name(size_t index) const;
  bool has_input(size_t index) const;
  // throws Refused if it is none; valid as long as the session
  Tensor constant(size_t index) const;

 private:
  bool has(const char *attribute) const;
  const OrtKernelInfo *info_;
};

// One call of a kernel.
class Call {
 public:
  explicit Call(OrtKernelContext *context) : context_(context) {}
  Tensor input(size_t index) const;
  Tensor output(size_t index, const std::vector<int64_t> &shape) const;

  // work(i) for i in 0 .. count - 1, on the threads of the session; throws nothing. They begin in
  // order, so work(i) may wait for those before it.
  template <class Work>
  void parallel(int64_t count, const Work &work) const;

 private:
  void run(void (*each)(void *, size_t), size_t count, void *data) const;
  OrtKernelContext *context_;
};

template <class Work>
void Call::parallel(int64_t count, const Work &work) const {
  if (count <= 1) {
    if (count == 1) work(0);
    return;
  }
  // Each call takes what is left, one after the other: threads that are late find nothing to do.
  struct Shared {
    const Work &work;
    int64_t count;
    std::atomic<int64_t> next{0};
  } shared{work, count};
  run(
      [](void *data, size_t) {
        Shared &s = *static_cast<Shared *>(data);
        for (int64_t i; (i = s.next.fetch_add(1)) < s.count;) s.work(i);
      },
      (size_t)count, &shared);
}

}  // namespace sc2onnx
