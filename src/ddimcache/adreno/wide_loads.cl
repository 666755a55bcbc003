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
/* A pointer of another type keeps private arrays out of registers here, which no vendor's compiler does. */
#define LAB_PRIVATE(type, n)                                                    \
  LAB_INLINE type##n lab_vload##n(size_t index, const __private type *base) {   \
    return vload##n(index, base);                                               \
  }                                                                             \
  LAB_INLINE void lab_vstore##n(type##n value, size_t index, __private type *base) { \
    vstore##n(value, index, base);                                              \
  }
#define LAB_WIDTH(type, n)                                                                  \
  LAB_LOAD(type, n, __global) LAB_LOAD(type, n, __local) LAB_LOAD(type, n, __constant)      \
  LAB_STORE(type, n, __global) LAB_STORE(type, n, __local) LAB_PRIVATE(type, n)
#define LAB_TYPE(type) LAB_WIDTH(type, 2) LAB_WIDTH(type, 4) LAB_WIDTH(type, 8) LAB_WIDTH(type, 16)
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
#define LAB_CHOOSE(first, second, third, chosen, ...) chosen
#define LAB_READ_H(image, sampler, position) read_imageh(image, position)
#define LAB_READ_F(image, sampler, position) read_imagef(image, position)
#define LAB_PLAIN_H(image, position) read_imageh(image, position)
#define LAB_PLAIN_F(image, position) read_imagef(image, position)
#define read_imageh(...) LAB_CHOOSE(__VA_ARGS__, LAB_READ_H, LAB_PLAIN_H, 0)(__VA_ARGS__)
#define read_imagef(...) LAB_CHOOSE(__VA_ARGS__, LAB_READ_F, LAB_PLAIN_F, 0)(__VA_ARGS__)
