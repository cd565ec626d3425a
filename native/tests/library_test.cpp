// The library as an ONNX Runtime loads it: with as much of one as registering needs.

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <onnxruntime_c_api.h>

#include <mutex>
#include <thread>
#include <vector>

extern "C" OrtStatus *RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base);

namespace {

const char *const kNames[] = {"BlockwiseLinear", "RingAttention"};

bool as_they_are(const std::vector<const OrtCustomOp *> &operators) {
  if (operators.size() != 2) return false;
  for (size_t i = 0; i < 2; i++)
    if (strcmp(operators[i]->GetName(operators[i]), kNames[i]) != 0) return false;
  return true;
}

// A session that a program holds in a variable of its own: it is older than all that the library
// makes, and so it ends after it. Then it destroys its kernels, by their operators.
struct Session {
  std::vector<const OrtCustomOp *> operators;
  ~Session() {
    if (as_they_are(operators)) return;
    printf("FAILED: operators that end before their session\n");
    fflush(stdout);
    _exit(1);
  }
} g_session;

std::mutex g_lock;

OrtApi runtime() {
  OrtApi api{};
  api.HasSessionConfigEntry = [](const OrtSessionOptions *, const char *, int *out) noexcept {
    *out = 0;
    return (OrtStatus *)nullptr;
  };
  api.CreateCustomOpDomain = [](const char *, OrtCustomOpDomain **) noexcept {
    return (OrtStatus *)nullptr;
  };
  api.CustomOpDomain_Add = [](OrtCustomOpDomain *, const OrtCustomOp *op) noexcept {
    const std::lock_guard<std::mutex> held(g_lock);
    g_session.operators.push_back(op);
    return (OrtStatus *)nullptr;
  };
  api.AddCustomOpDomain = [](OrtSessionOptions *, OrtCustomOpDomain *) noexcept {
    return (OrtStatus *)nullptr;
  };
  return api;
}

const OrtApi g_runtime = runtime();

}  // namespace

int main() {
  OrtApiBase base{};
  base.GetApi = [](uint32_t) noexcept { return &g_runtime; };
  const bool good =
      RegisterCustomOps(nullptr, &base) == nullptr && as_they_are(g_session.operators);
  std::thread other([&] { RegisterCustomOps(nullptr, &base); });  // for a session of its own
  RegisterCustomOps(nullptr, &base);
  other.join();
  g_session.operators.resize(2);
  printf(good ? "all well\n" : "FAILED: registering\n");
  return !good;
}
