// What is there before anything of the library has run: all that its instruction sets need. What
// they initialised by themselves would run, with their own instructions, on processors that lack
// them.

#include <stdio.h>

#include "instructions.h"

using namespace sc2onnx;

static bool g_there = true;

static bool complete(const AttentionFormat &format) {
  return format.store && format.prepare && format.segment;
}

// Before any other initialisation.
__attribute__((constructor(101))) static void look() {
  for (const Instructions *each : available_instructions()) {
    const LinearKernels &l = each->linear;
    const AttentionKernels &a = each->attention;
    g_there = g_there && each->name && l.round_rows && l.product && l.code_at && l.scale_at &&
              l.shrink && complete(a.bytes) && complete(a.floats) && a.begin && a.merge && a.finish;
  }
}

int main() {
  printf(g_there ? "all well\n" : "FAILED: kernels that are initialised at loading\n");
  return !g_there;
}
