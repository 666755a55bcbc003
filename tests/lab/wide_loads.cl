/* Put in front of a source that is compiled for the Adreno 740 in the lab.
 *
 * Mesa's vloadN promises no alignment beyond one element and so becomes N scalar loads, and its sampler reads go
 * through a 32-bit float path. A vendor's compiler for this GPU does neither; these definitions give Mesa code
 * that it can turn into the instructions that the GPU has for the purpose. */
#pragma OPENCL EXTENSION cl_khr_fp16 : enable

#define LAB_INLINE static inline __attribute__((overloadable, always_inline))
#define LAB_LOAD(type, n, space)                                          \
  LAB_INLINE type##n lab_vload##n(size_t index, const space type *base) { \
    return ((const space type##n *)base)[index];                          \
  }
#define LAB_STORE(type, n, space)                                                \
  LAB_INLINE void lab_vstore##n(type##n value, size_t index, space type *base) { \
    ((space type##n *)base)[index] = value;                                      \
  }
#define LAB_WIDTHS(direction, type, space) \
  direction(type, 2, space) direction(type, 4, space) direction(type, 8, space) direction(type, 16, space)
#define LAB_TYPE(type)                                                                                    \
  LAB_WIDTHS(LAB_LOAD, type, __global) LAB_WIDTHS(LAB_LOAD, type, __local)                                \
  LAB_WIDTHS(LAB_LOAD, type, __private) LAB_WIDTHS(LAB_LOAD, type, __constant)                            \
  LAB_WIDTHS(LAB_STORE, type, __global) LAB_WIDTHS(LAB_STORE, type, __local)                              \
  LAB_WIDTHS(LAB_STORE, type, __private)
LAB_TYPE(half) LAB_TYPE(float) LAB_TYPE(int) LAB_TYPE(uint) LAB_TYPE(short) LAB_TYPE(ushort) LAB_TYPE(char) LAB_TYPE(uchar)

#define vload2 lab_vload2
#define vload4 lab_vload4
#define vload8 lab_vload8
#define vload16 lab_vload16
#define vstore2 lab_vstore2
#define vstore4 lab_vstore4
#define vstore8 lab_vstore8
#define vstore16 lab_vstore16

/* Reads at whole coordinates without filtering are the same with and without a sampler. */
#define read_imageh(image, sampler, position) read_imageh(image, position)
#define read_imagef(image, sampler, position) read_imagef(image, position)
