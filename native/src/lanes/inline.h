// Members that kernels use become part of their callers: a copy that the linker keeps could be the
// one with instructions that the machine at hand does not have.
#pragma once

#if defined(_MSC_VER) && !defined(__clang__)
#define SC2ONNX_INLINE __forceinline
#else
#define SC2ONNX_INLINE inline __attribute__((always_inline))
#endif
