// The part of the OpenCL 1.2 interface that this runtime uses, declared here so that neither a build machine
// nor a phone's toolchain needs OpenCL headers. Values and signatures are those of the Khronos specification.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(_WIN32)
#define DDIMCACHE_CL_CALL __stdcall
#else
#define DDIMCACHE_CL_CALL
#endif

namespace ddimcache::opencl {

using cl_int = int32_t;
using cl_uint = uint32_t;
using cl_ulong = uint64_t;
using cl_bool = cl_uint;
using cl_bitfield = cl_ulong;

struct PlatformHandle;
struct DeviceHandle;
struct ContextHandle;
struct QueueHandle;
struct MemoryHandle;
struct ProgramHandle;
struct KernelHandle;
struct EventHandle;
using cl_platform_id = PlatformHandle*;
using cl_device_id = DeviceHandle*;
using cl_context = ContextHandle*;
using cl_command_queue = QueueHandle*;
using cl_mem = MemoryHandle*;
using cl_program = ProgramHandle*;
using cl_kernel = KernelHandle*;
using cl_event = EventHandle*;

struct ImageFormat {
  cl_uint channel_order;
  cl_uint channel_type;
};

struct ImageDescription {
  cl_uint type;
  size_t width;
  size_t height;
  size_t depth;
  size_t array_size;
  size_t row_pitch;
  size_t slice_pitch;
  cl_uint mip_levels;
  cl_uint samples;
  cl_mem buffer;
};

constexpr cl_int kSuccess = 0;
constexpr cl_int kDeviceNotFound = -1;
constexpr cl_int kPlatformNotFoundKhr = -1001;
constexpr cl_bool kBlocking = 1;
constexpr cl_bool kNonBlocking = 0;

constexpr cl_bitfield kDeviceTypeCpu = 1 << 1;
constexpr cl_bitfield kDeviceTypeGpu = 1 << 2;
constexpr cl_bitfield kDeviceTypeAccelerator = 1 << 3;
constexpr cl_bitfield kDeviceTypeAll = 0xFFFFFFFF;

constexpr cl_uint kPlatformName = 0x0902;
constexpr cl_uint kPlatformVersion = 0x0901;

constexpr cl_uint kDeviceType = 0x1000;
constexpr cl_uint kDeviceMaxComputeUnits = 0x1002;
constexpr cl_uint kDeviceMaxWorkItemDimensions = 0x1003;
constexpr cl_uint kDeviceMaxWorkGroupSize = 0x1004;
constexpr cl_uint kDeviceMaxWorkItemSizes = 0x1005;
constexpr cl_uint kDeviceMaxClockFrequency = 0x100C;
constexpr cl_uint kDeviceMaxMemAllocSize = 0x1010;
constexpr cl_uint kDeviceImage2dMaxWidth = 0x1011;
constexpr cl_uint kDeviceImage2dMaxHeight = 0x1012;
constexpr cl_uint kDeviceImageSupport = 0x1016;
constexpr cl_uint kDeviceMaxParameterSize = 0x1017;
constexpr cl_uint kDeviceMemBaseAddrAlign = 0x1019;
constexpr cl_uint kDeviceGlobalMemCacheSize = 0x101E;
constexpr cl_uint kDeviceGlobalMemSize = 0x101F;
constexpr cl_uint kDeviceMaxConstantBufferSize = 0x1020;
constexpr cl_uint kDeviceLocalMemSize = 0x1023;
constexpr cl_uint kDeviceName = 0x102B;
constexpr cl_uint kDeviceVendor = 0x102C;
constexpr cl_uint kDriverVersion = 0x102D;
constexpr cl_uint kDeviceVersion = 0x102F;
constexpr cl_uint kDeviceExtensions = 0x1030;
constexpr cl_uint kDeviceImageMaxBufferSize = 0x1040;
constexpr cl_uint kDeviceImageMaxArraySize = 0x1041;
constexpr cl_uint kDeviceImagePitchAlignment = 0x104A;

constexpr cl_bitfield kQueueProfilingEnable = 1 << 1;
constexpr cl_bitfield kMemReadWrite = 1 << 0;

constexpr cl_uint kChannelOrderRgba = 0x10B5;
constexpr cl_uint kChannelSnormInt8 = 0x10D0;
constexpr cl_uint kChannelSignedInt8 = 0x10D7;
constexpr cl_uint kChannelSignedInt16 = 0x10D8;
constexpr cl_uint kChannelSignedInt32 = 0x10D9;
constexpr cl_uint kChannelUnsignedInt8 = 0x10DA;
constexpr cl_uint kChannelUnsignedInt16 = 0x10DB;
constexpr cl_uint kChannelUnsignedInt32 = 0x10DC;
constexpr cl_uint kChannelHalfFloat = 0x10DD;
constexpr cl_uint kChannelFloat = 0x10DE;
constexpr cl_uint kMemObjectImage2d = 0x10F1;
constexpr cl_uint kMemObjectImage2dArray = 0x10F3;
constexpr cl_uint kMemObjectImage1dBuffer = 0x10F6;

constexpr cl_uint kProgramBinarySizes = 0x1165;
constexpr cl_uint kProgramBinaries = 0x1166;
constexpr cl_uint kProgramBuildLog = 0x1183;
constexpr cl_uint kKernelNumArgs = 0x1191;
constexpr cl_uint kKernelWorkGroupSize = 0x11B0;
constexpr cl_uint kKernelLocalMemSize = 0x11B2;
constexpr cl_uint kKernelPrivateMemSize = 0x11B4;

constexpr cl_uint kProfilingCommandQueued = 0x1280;
constexpr cl_uint kProfilingCommandStart = 0x1282;
constexpr cl_uint kProfilingCommandEnd = 0x1283;

// X(name, result, parameters): every entry point that is looked up in the library. All belong to OpenCL 1.2,
// the oldest version on any phone that can run these models.
#define DDIMCACHE_CL_FUNCTIONS(X)                                                                            \
  X(clGetPlatformIDs, cl_int, (cl_uint, cl_platform_id*, cl_uint*))                                          \
  X(clGetPlatformInfo, cl_int, (cl_platform_id, cl_uint, size_t, void*, size_t*))                            \
  X(clGetDeviceIDs, cl_int, (cl_platform_id, cl_bitfield, cl_uint, cl_device_id*, cl_uint*))                 \
  X(clGetDeviceInfo, cl_int, (cl_device_id, cl_uint, size_t, void*, size_t*))                                \
  X(clCreateContext, cl_context,                                                                             \
    (const intptr_t*, cl_uint, const cl_device_id*,                                                          \
     void(DDIMCACHE_CL_CALL*)(const char*, const void*, size_t, void*), void*, cl_int*))                     \
  X(clCreateCommandQueue, cl_command_queue, (cl_context, cl_device_id, cl_bitfield, cl_int*))                \
  X(clReleaseCommandQueue, cl_int, (cl_command_queue))                                                       \
  X(clCreateBuffer, cl_mem, (cl_context, cl_bitfield, size_t, void*, cl_int*))                               \
  X(clCreateImage, cl_mem,                                                                                   \
    (cl_context, cl_bitfield, const ImageFormat*, const ImageDescription*, void*, cl_int*))                  \
  X(clReleaseMemObject, cl_int, (cl_mem))                                                                    \
  X(clEnqueueReadBuffer, cl_int,                                                                             \
    (cl_command_queue, cl_mem, cl_bool, size_t, size_t, void*, cl_uint, const cl_event*, cl_event*))         \
  X(clEnqueueWriteBuffer, cl_int,                                                                            \
    (cl_command_queue, cl_mem, cl_bool, size_t, size_t, const void*, cl_uint, const cl_event*, cl_event*))   \
  X(clEnqueueCopyBuffer, cl_int,                                                                             \
    (cl_command_queue, cl_mem, cl_mem, size_t, size_t, size_t, cl_uint, const cl_event*, cl_event*))         \
  X(clEnqueueReadBufferRect, cl_int,                                                                         \
    (cl_command_queue, cl_mem, cl_bool, const size_t*, const size_t*, const size_t*, size_t, size_t, size_t, \
     size_t, void*, cl_uint, const cl_event*, cl_event*))                                                    \
  X(clEnqueueWriteBufferRect, cl_int,                                                                        \
    (cl_command_queue, cl_mem, cl_bool, const size_t*, const size_t*, const size_t*, size_t, size_t, size_t, \
     size_t, const void*, cl_uint, const cl_event*, cl_event*))                                              \
  X(clEnqueueCopyBufferRect, cl_int,                                                                         \
    (cl_command_queue, cl_mem, cl_mem, const size_t*, const size_t*, const size_t*, size_t, size_t, size_t,  \
     size_t, cl_uint, const cl_event*, cl_event*))                                                           \
  X(clEnqueueReadImage, cl_int,                                                                              \
    (cl_command_queue, cl_mem, cl_bool, const size_t*, const size_t*, size_t, size_t, void*, cl_uint,        \
     const cl_event*, cl_event*))                                                                            \
  X(clEnqueueWriteImage, cl_int,                                                                             \
    (cl_command_queue, cl_mem, cl_bool, const size_t*, const size_t*, size_t, size_t, const void*, cl_uint,  \
     const cl_event*, cl_event*))                                                                            \
  X(clEnqueueCopyImage, cl_int,                                                                              \
    (cl_command_queue, cl_mem, cl_mem, const size_t*, const size_t*, const size_t*, cl_uint,                 \
     const cl_event*, cl_event*))                                                                            \
  X(clEnqueueCopyImageToBuffer, cl_int,                                                                      \
    (cl_command_queue, cl_mem, cl_mem, const size_t*, const size_t*, size_t, cl_uint, const cl_event*,       \
     cl_event*))                                                                                             \
  X(clEnqueueCopyBufferToImage, cl_int,                                                                      \
    (cl_command_queue, cl_mem, cl_mem, size_t, const size_t*, const size_t*, cl_uint, const cl_event*,       \
     cl_event*))                                                                                             \
  X(clCreateProgramWithSource, cl_program, (cl_context, cl_uint, const char**, const size_t*, cl_int*))      \
  X(clCreateProgramWithBinary, cl_program,                                                                   \
    (cl_context, cl_uint, const cl_device_id*, const size_t*, const unsigned char**, cl_int*, cl_int*))      \
  X(clGetProgramInfo, cl_int, (cl_program, cl_uint, size_t, void*, size_t*))                                 \
  X(clBuildProgram, cl_int,                                                                                  \
    (cl_program, cl_uint, const cl_device_id*, const char*, void(DDIMCACHE_CL_CALL*)(cl_program, void*),     \
     void*))                                                                                                 \
  X(clGetProgramBuildInfo, cl_int, (cl_program, cl_device_id, cl_uint, size_t, void*, size_t*))              \
  X(clRetainProgram, cl_int, (cl_program))                                                                   \
  X(clReleaseProgram, cl_int, (cl_program))                                                                  \
  X(clCreateKernel, cl_kernel, (cl_program, const char*, cl_int*))                                           \
  X(clReleaseKernel, cl_int, (cl_kernel))                                                                    \
  X(clSetKernelArg, cl_int, (cl_kernel, cl_uint, size_t, const void*))                                       \
  X(clGetKernelInfo, cl_int, (cl_kernel, cl_uint, size_t, void*, size_t*))                                   \
  X(clGetKernelWorkGroupInfo, cl_int, (cl_kernel, cl_device_id, cl_uint, size_t, void*, size_t*))            \
  X(clEnqueueNDRangeKernel, cl_int,                                                                          \
    (cl_command_queue, cl_kernel, cl_uint, const size_t*, const size_t*, const size_t*, cl_uint,             \
     const cl_event*, cl_event*))                                                                            \
  X(clEnqueueMarkerWithWaitList, cl_int, (cl_command_queue, cl_uint, const cl_event*, cl_event*))            \
  X(clFlush, cl_int, (cl_command_queue))                                                                     \
  X(clFinish, cl_int, (cl_command_queue))                                                                    \
  X(clWaitForEvents, cl_int, (cl_uint, const cl_event*))                                                     \
  X(clRetainEvent, cl_int, (cl_event))                                                                       \
  X(clReleaseEvent, cl_int, (cl_event))                                                                      \
  X(clGetEventProfilingInfo, cl_int, (cl_event, cl_uint, size_t, void*, size_t*))

}  // namespace ddimcache::opencl
