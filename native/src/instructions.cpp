#include "instructions.h"

#include <stdlib.h>
#include <string.h>

#if defined(SC2ONNX_X86)
#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#elif defined(SC2ONNX_ARM) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(SC2ONNX_ARM) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace sc2onnx {

// Each is defined in isa/, in a file compiled for it.
extern const Instructions kPortable, kAvx2, kAvxVnni, kAvx512Vnni, kNeonDot, kNeonI8mm;

namespace {

#if defined(SC2ONNX_X86)

struct Registers {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers cpuid(unsigned leaf, unsigned part) {
  Registers r;
#if defined(_MSC_VER)
  int out[4];
  __cpuidex(out, (int)leaf, (int)part);
  r = {(unsigned)out[0], (unsigned)out[1], (unsigned)out[2], (unsigned)out[3]};
#else
  __get_cpuid_count(leaf, part, &r.eax, &r.ebx, &r.ecx, &r.edx);
#endif
  return r;
}

// Which registers the operating system keeps for a thread that another one interrupts.
unsigned long long kept_registers() {
  if (!(cpuid(1, 0).ecx >> 27 & 1)) return 0;
#if defined(_MSC_VER)
  return _xgetbv(0);
#else
  unsigned low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (unsigned long long)high << 32 | low;
#endif
}

bool has(unsigned word, int bit) { return word >> bit & 1; }

bool has_avx2() {
  const unsigned ecx = cpuid(1, 0).ecx;
  return (kept_registers() & 6) == 6 && has(ecx, 12) && has(ecx, 28) && has(ecx, 29) &&
         has(cpuid(7, 0).ebx, 5);
}
bool has_avxvnni() { return has_avx2() && has(cpuid(7, 1).eax, 4); }
bool has_avx512vnni() {
  const Registers r = cpuid(7, 0);
  const bool foundation = has(r.ebx, 16) && has(r.ebx, 17) && has(r.ebx, 30) && has(r.ebx, 31);
  return has_avx2() && (kept_registers() & 0xe6) == 0xe6 && foundation && has(r.ecx, 11);
}

#elif defined(SC2ONNX_ARM)

#if defined(__linux__)
bool has_dot() { return getauxval(AT_HWCAP) >> 20 & 1; }
bool has_i8mm() { return getauxval(AT_HWCAP2) >> 13 & 1; }
#elif defined(__APPLE__)
bool reports(const char *name) {
  int value = 0;
  size_t size = sizeof value;
  return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value;
}
bool has_dot() { return reports("hw.optional.arm.FEAT_DotProd"); }
bool has_i8mm() { return reports("hw.optional.arm.FEAT_I8MM"); }
#else
bool has_dot() { return false; }
bool has_i8mm() { return false; }
#endif

#endif

const Instructions &choose() {
  const std::vector<const Instructions *> available = available_instructions();
  if (const char *wanted = getenv("SC2ONNX_KERNELS"))
    for (const Instructions *each : available)
      if (strcmp(each->name, wanted) == 0) return *each;
  return *available.front();
}

}  // namespace

std::vector<const Instructions *> available_instructions() {
  std::vector<const Instructions *> found;
#if defined(SC2ONNX_X86)
  if (has_avx512vnni()) found.push_back(&kAvx512Vnni);
  if (has_avxvnni()) found.push_back(&kAvxVnni);
  if (has_avx2()) found.push_back(&kAvx2);
#elif defined(SC2ONNX_ARM)
  if (has_dot() && has_i8mm()) found.push_back(&kNeonI8mm);
  if (has_dot()) found.push_back(&kNeonDot);
#endif
  found.push_back(&kPortable);
  return found;
}

const Instructions &instructions() {
  static const Instructions &chosen = choose();
  return chosen;
}

}  // namespace sc2onnx
