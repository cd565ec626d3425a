// What every set of lanes shares: how functions are declared that must become part of their caller.
//
// Each processor's file (lanes/*.h) defines the same types and functions in a namespace of its own:
//   F  sixteen float32      I  sixteen int32      B  sixty-four bytes, as sixteen groups of four
// However wide a register is, there are sixteen lanes, and sums over lanes have one order. So a
// kernel that is written with them gives the same bits on every processor.
//
// Files that are compiled for one processor must not use templates or inline functions of the
// standard library: the linker keeps one copy of those, and it could be the one with instructions
// that the machine at hand does not have. Nor may they have variables that are initialised when the
// library is loaded (theirs are constexpr): that would run those instructions on every machine.
#pragma once

#include <stdint.h>
#include <math.h>
#include <string.h>

#include "lanes/inline.h"

#if defined(SC2ONNX_SANITIZED)
// Checks of each access, in all that is inlined, take a compiler minutes for a file.
#define SC2ONNX_LANES static inline
#else
#define SC2ONNX_LANES static SC2ONNX_INLINE
#endif

#if defined(_MSC_VER) && !defined(__clang__)
#define SC2ONNX_NOINLINE __declspec(noinline)
#else
#define SC2ONNX_NOINLINE __attribute__((noinline))
#endif

#if defined(__GNUC__) || defined(__clang__)
#define SC2ONNX_PREFETCH(address) __builtin_prefetch(address)
#elif defined(_M_X64)
#include <xmmintrin.h>
#define SC2ONNX_PREFETCH(address) _mm_prefetch((const char *)(address), _MM_HINT_T0)
#else
#define SC2ONNX_PREFETCH(address) ((void)(address))
#endif
