// The parts of OpenCL's extensions that this runtime uses, declared here for the reason given in
// opencl_types.h. Values and signatures are those of the Khronos and Qualcomm headers.
#pragma once

#include "opencl_types.h"

namespace ddimcache::opencl {

// cl_khr_priority_hints and cl_khr_throttle_hints: properties of a queue, which OpenCL 2.0 makes from a list.
constexpr cl_ulong kQueueProperties = 0x1093;
constexpr cl_ulong kQueuePriorityKhr = 0x1096;
constexpr cl_ulong kQueueThrottleKhr = 0x1097;
using CreateQueueWithProperties = cl_command_queue(DDIMCACHE_CL_CALL*)(cl_context, cl_device_id,
                                                                       const cl_ulong*, cl_int*);

// cl_qcom_perf_hint and cl_qcom_priority_hint: properties of a context.
constexpr intptr_t kContextPlatform = 0x1084;
constexpr intptr_t kContextPerformanceQcom = 0x40C2;
constexpr intptr_t kPerformanceHighQcom = 0x40C3;
constexpr intptr_t kPerformanceNormalQcom = 0x40C4;
constexpr intptr_t kPerformanceLowQcom = 0x40C5;
constexpr intptr_t kContextPriorityQcom = 0x40C9;
constexpr intptr_t kPriorityHighQcom = 0x40CA;
constexpr intptr_t kPriorityNormalQcom = 0x40CB;
constexpr intptr_t kPriorityLowQcom = 0x40CC;

// cl_khr_command_buffer, 0.9 and later. Only calls are used whose signature no revision has changed: copies
// gained a parameter.
struct CommandBufferHandle;
using cl_command_buffer_khr = CommandBufferHandle*;

constexpr cl_uint kDeviceCommandBufferCapabilities = 0x12A9;
constexpr cl_bitfield kCommandBufferCapabilitySimultaneousUse = 1 << 2;
constexpr cl_ulong kCommandBufferFlags = 0x1293;
constexpr cl_ulong kCommandBufferSimultaneousUse = 1 << 0;

// X(name, result, parameters)
#define DDIMCACHE_CL_COMMAND_BUFFER_FUNCTIONS(X)                                                  \
  X(clCreateCommandBufferKHR, cl_command_buffer_khr,                                              \
    (cl_uint, const cl_command_queue*, const cl_ulong*, cl_int*))                                 \
  X(clFinalizeCommandBufferKHR, cl_int, (cl_command_buffer_khr))                                  \
  X(clReleaseCommandBufferKHR, cl_int, (cl_command_buffer_khr))                                   \
  X(clEnqueueCommandBufferKHR, cl_int,                                                            \
    (cl_uint, cl_command_queue*, cl_command_buffer_khr, cl_uint, const cl_event*, cl_event*))     \
  X(clCommandNDRangeKernelKHR, cl_int,                                                            \
    (cl_command_buffer_khr, cl_command_queue, const cl_ulong*, cl_kernel, cl_uint, const size_t*, \
     const size_t*, const size_t*, cl_uint, const cl_uint*, cl_uint*, void**))

// cl_qcom_recordable_queues. A queue made with kQueueRecordableQcom, and no other property, runs nothing:
// between clNewRecordingQCOM and clEndRecordingQCOM it takes launches, and only those.
struct RecordingHandleQcom;
using cl_recording_qcom = RecordingHandleQcom*;

constexpr cl_bitfield kQueueRecordableQcom = 1u << 30;
constexpr cl_uint kDeviceRecordableQueueMaxSizeQcom = 0x41DE;

// Replaces an argument of the launch of that number, for one replay.
struct ArgumentUpdateQcom {
  cl_uint launch;
  cl_uint argument;
  size_t bytes;
  const void* value;
};

struct OffsetUpdateQcom {
  cl_uint launch;
  size_t offsets[3];
};

struct SizeUpdateQcom {
  cl_uint launch;
  const size_t* sizes;
};

#define DDIMCACHE_CL_RECORDABLE_QUEUE_FUNCTIONS(X)                                                   \
  X(clNewRecordingQCOM, cl_recording_qcom, (cl_command_queue, cl_int*))                              \
  X(clEndRecordingQCOM, cl_int, (cl_recording_qcom))                                                 \
  X(clReleaseRecordingQCOM, cl_int, (cl_recording_qcom))                                             \
  X(clEnqueueRecordingQCOM, cl_int,                                                                  \
    (cl_command_queue, cl_recording_qcom, size_t, const ArgumentUpdateQcom*, size_t,                 \
     const OffsetUpdateQcom*, size_t, const SizeUpdateQcom*, size_t, const SizeUpdateQcom*, cl_uint, \
     const cl_event*, cl_event*))

}  // namespace ddimcache::opencl
