/* An OpenCL library with one device that runs two kernels, known by name, at once when they are enqueued. It
 * offers cl_qcom_recordable_queues or cl_khr_command_buffer, and hints, and is strict: what Qualcomm's header
 * or the Khronos specification does not allow is an error here. It writes what it was given to standard
 * output.
 *
 * FAKE_EXTENSIONS  the device's extensions
 * FAKE_FAIL        a call that fails from its FAKE_AFTER-th time on (0 without it)
 * FAKE_SIMULTANEOUS  command buffers may run several times at once
 * FAKE_WRONG       replays leave out their last launch */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_ARGUMENTS = 4, MOST_LAUNCHES = 64, MOST_RECORDED = 16 };
enum { INVALID_VALUE = -30, INVALID_QUEUE = -36, INVALID_ARGUMENTS = -52, INVALID_OPERATION = -59 };
enum { RECORDABLE = 1 << 30, PROFILING = 1 << 1 };

typedef struct {
  size_t bytes;
  uint8_t* data;
} Buffer;
typedef struct {
  char name[64];
  size_t argument_bytes[MOST_ARGUMENTS];
  uint64_t arguments[MOST_ARGUMENTS];
} Kernel;
typedef struct {
  Kernel kernel; /* arguments as they were */
  size_t items;
} Launch;
typedef struct Recording {
  struct Queue* queue;
  int ended, pending, simultaneous;
  size_t count;
  Launch launches[MOST_LAUNCHES];
} Recording;
typedef struct Queue {
  uint64_t properties;
  Recording* open;
} Queue;
typedef struct {
  int references;
  Recording* recording;
} Event;
typedef struct {
  uint32_t launch, argument;
  size_t bytes;
  const void* value;
} ArgumentUpdate;

static int platform, device, context, program;
static Recording* pending[256];
static int pending_count;

static int fails(const char* call) {
  static int times;
  const char* name = getenv("FAKE_FAIL");
  if (name == NULL || strcmp(name, call) != 0) return 0;
  return times++ >= atoi(getenv("FAKE_AFTER") ? getenv("FAKE_AFTER") : "0");
}

static const char* extensions(void) {
  return getenv("FAKE_EXTENSIONS") ? getenv("FAKE_EXTENSIONS") : "";
}

static int answer(const void* value, size_t bytes, size_t room, void* out, size_t* needed) {
  if (needed) *needed = bytes;
  if (out) {
    if (room < bytes) return INVALID_VALUE;
    memcpy(out, value, bytes);
  }
  return 0;
}

static int answer_text(const char* text, size_t room, void* out, size_t* needed) {
  return answer(text, strlen(text) + 1, room, out, needed);
}

static int run(const Launch* launch) {
  const Kernel* kernel = &launch->kernel;
  Buffer* target = (Buffer*)kernel->arguments[0];
  if (strcmp(kernel->name, "ddimcache_replay_check") == 0) {
    uint32_t* value = (uint32_t*)target->data;
    *value = *value * 3 + (uint32_t)kernel->arguments[1];
    return 0;
  }
  if (strcmp(kernel->name, "blend") != 0) return INVALID_ARGUMENTS;
  int32_t* to = (int32_t*)target->data;
  const int32_t* from = (const int32_t*)((Buffer*)kernel->arguments[1])->data;
  for (size_t i = 0; i < launch->items; ++i) to[i] = to[i] * (int32_t)kernel->arguments[2] + from[i];
  return 0;
}

static int run_all(const Recording* recording, const Launch* launches) {
  const size_t count = recording->count - (getenv("FAKE_WRONG") ? 1 : 0);
  for (size_t i = 0; i < count; ++i) {
    if (run(&launches[i]) != 0) return INVALID_ARGUMENTS;
  }
  return 0;
}

static Event* new_event(Recording* recording) {
  Event* event = calloc(1, sizeof(Event));
  event->references = 1;
  event->recording = recording;
  return event;
}

/* ---- OpenCL 1.2 ---- */
int clGetPlatformIDs(uint32_t room, void** out, uint32_t* count) {
  if (count) *count = 1;
  if (out && room) out[0] = &platform;
  return 0;
}
int clGetPlatformInfo(void* id, uint32_t what, size_t room, void* out, size_t* needed) {
  (void)id;
  return answer_text(what == 0x0901 ? "OpenCL 3.0 fake" : "Fake", room, out, needed);
}
int clGetDeviceIDs(void* id, uint64_t type, uint32_t room, void** out, uint32_t* count) {
  (void)id, (void)type;
  if (count) *count = 1;
  if (out && room) out[0] = &device;
  return 0;
}
int clGetDeviceInfo(void* id, uint32_t what, size_t room, void* out, size_t* needed) {
  (void)id;
  const uint64_t type = 1 << 2, large = 1 << 20, alignment = 1024;
  const uint64_t capabilities = getenv("FAKE_SIMULTANEOUS") ? 1 << 2 : 0;
  const size_t sizes[3] = {1024, 1024, 64}, group = 1024;
  const uint32_t most_recorded = MOST_RECORDED, dimensions = 3, bits = 1024;
  (void)alignment;
  switch (what) {
    case 0x1000:
      return answer(&type, sizeof type, room, out, needed);
    case 0x1003:
      return answer(&dimensions, sizeof dimensions, room, out, needed);
    case 0x1004:
      return answer(&group, sizeof group, room, out, needed);
    case 0x1005:
      return answer(sizes, sizeof sizes, room, out, needed);
    case 0x1010:
    case 0x101F:
      return answer(&large, sizeof large, room, out, needed);
    case 0x1019:
      return answer(&bits, sizeof bits, room, out, needed);
    case 0x102B:
      return answer_text("Fake GPU", room, out, needed);
    case 0x102C:
      return answer_text("Fake", room, out, needed);
    case 0x102D:
      return answer_text("1", room, out, needed);
    case 0x102F:
      return answer_text("OpenCL 3.0 fake", room, out, needed);
    case 0x1030:
      return answer_text(extensions(), room, out, needed);
    case 0x12A9:
      return answer(&capabilities, sizeof capabilities, room, out, needed);
    case 0x41DE:
      return answer(&most_recorded, sizeof most_recorded, room, out, needed);
    default:
      return INVALID_VALUE;
  }
}
void* clCreateContext(const intptr_t* properties, uint32_t count, void** devices, void* callback, void* data,
                      int* code) {
  (void)count, (void)devices, (void)callback, (void)data;
  printf("context");
  for (; properties && *properties; properties += 2) {
    printf(" %lx=%s%lx", (long)properties[0], properties[0] == 0x1084 ? "platform+" : "",
           (long)(properties[0] == 0x1084 ? properties[1] - (intptr_t)&platform : properties[1]));
  }
  printf("\n");
  *code = properties && fails("clCreateContext") ? -64 : 0;
  return *code ? NULL : &context;
}
static void* make_queue(uint64_t properties, int* code) {
  if ((properties & RECORDABLE) && properties != RECORDABLE) {
    *code = INVALID_VALUE;
    return NULL;
  }
  Queue* queue = calloc(1, sizeof(Queue));
  queue->properties = properties;
  *code = 0;
  return queue;
}
void* clCreateCommandQueue(void* in, void* on, uint64_t properties, int* code) {
  (void)in, (void)on;
  printf("queue %lx\n", (long)properties);
  return make_queue(properties, code);
}
void* clCreateCommandQueueWithProperties(void* in, void* on, const uint64_t* properties, int* code) {
  (void)in, (void)on;
  uint64_t bits = 0;
  printf("queue with");
  for (; properties && *properties; properties += 2) {
    printf(" %lx=%lx", (long)properties[0], (long)properties[1]);
    if (properties[0] == 0x1093) bits = properties[1];
  }
  printf("\n");
  if (fails("clCreateCommandQueueWithProperties")) {
    *code = -64;
    return NULL;
  }
  return make_queue(bits, code);
}
int clReleaseCommandQueue(void* queue) {
  free(queue);
  return 0;
}
void* clCreateBuffer(void* in, uint64_t flags, size_t bytes, void* host, int* code) {
  (void)in, (void)flags, (void)host;
  Buffer* buffer = malloc(sizeof(Buffer));
  buffer->bytes = bytes;
  buffer->data = calloc(1, bytes);
  *code = 0;
  return buffer;
}
int clReleaseMemObject(void* memory) {
  free(((Buffer*)memory)->data);
  free(memory);
  return 0;
}
int clEnqueueReadBuffer(Queue* queue, Buffer* buffer, uint32_t blocking, size_t offset, size_t bytes,
                        void* to, uint32_t count, void* list, void** event) {
  (void)blocking, (void)count, (void)list;
  if (queue->properties & RECORDABLE) return INVALID_QUEUE;
  memcpy(to, buffer->data + offset, bytes);
  if (event) *event = new_event(NULL);
  return 0;
}
int clEnqueueWriteBuffer(Queue* queue, Buffer* buffer, uint32_t blocking, size_t offset, size_t bytes,
                         const void* from, uint32_t count, void* list, void** event) {
  (void)blocking, (void)count, (void)list;
  if (queue->properties & RECORDABLE) return INVALID_QUEUE;
  memcpy(buffer->data + offset, from, bytes);
  if (event) *event = new_event(NULL);
  return 0;
}
int clEnqueueCopyBuffer(Queue* queue, Buffer* from, Buffer* to, size_t from_offset, size_t to_offset,
                        size_t bytes, uint32_t count, void* list, void** event) {
  (void)count, (void)list;
  if (queue->properties & RECORDABLE) return INVALID_QUEUE;
  memcpy(to->data + to_offset, from->data + from_offset, bytes);
  if (event) *event = new_event(NULL);
  return 0;
}
void* clCreateProgramWithSource(void* in, uint32_t count, const char** text, const size_t* length,
                                int* code) {
  (void)in, (void)count, (void)text, (void)length;
  *code = 0;
  return &program;
}
int clBuildProgram(void* built, uint32_t count, void* list, const char* options, void* callback, void* data) {
  (void)built, (void)count, (void)list, (void)options, (void)callback, (void)data;
  return 0;
}
int clRetainProgram(void* retained) {
  (void)retained;
  return 0;
}
int clReleaseProgram(void* released) {
  (void)released;
  return 0;
}
void* clCreateKernel(void* from, const char* name, int* code) {
  (void)from;
  Kernel* kernel = calloc(1, sizeof(Kernel));
  snprintf(kernel->name, sizeof kernel->name, "%s", name);
  *code = 0;
  return kernel;
}
int clReleaseKernel(void* kernel) {
  memset(kernel, 0xEE, sizeof(Kernel));
  free(kernel);
  return 0;
}
static int set_argument(Kernel* kernel, uint32_t index, size_t bytes, const void* value) {
  if (index >= MOST_ARGUMENTS || bytes > 8) return INVALID_VALUE;
  if (kernel->argument_bytes[index] != 0 && kernel->argument_bytes[index] != bytes) return INVALID_VALUE;
  kernel->argument_bytes[index] = bytes;
  kernel->arguments[index] = 0;
  memcpy(&kernel->arguments[index], value, bytes);
  return 0;
}
int clSetKernelArg(Kernel* kernel, uint32_t index, size_t bytes, const void* value) {
  return set_argument(kernel, index, bytes, value);
}
int clGetKernelWorkGroupInfo(void* kernel, void* on, uint32_t what, size_t room, void* out, size_t* needed) {
  (void)kernel, (void)on;
  const uint64_t value = what == 0x11B0 ? 1024 : 0;
  return answer(&value, sizeof value, room, out, needed);
}
static Launch as_launch(const Kernel* kernel, uint32_t dimensions, const size_t* global) {
  Launch launch = {*kernel, 1};
  for (uint32_t axis = 0; axis < dimensions; ++axis) launch.items *= global[axis];
  return launch;
}
int clEnqueueNDRangeKernel(Queue* queue, Kernel* kernel, uint32_t dimensions, const size_t* offset,
                           const size_t* global, const size_t* local, uint32_t count, void* list,
                           void** event) {
  (void)local, (void)list;
  const Launch launch = as_launch(kernel, dimensions, global);
  if (!(queue->properties & RECORDABLE)) {
    printf("launch %s\n", kernel->name);
    if (event) *event = new_event(NULL);
    return run(&launch);
  }
  if (queue->open == NULL || event || count || offset) return INVALID_OPERATION;
  if (queue->open->count == MOST_RECORDED) return -5;
  queue->open->launches[queue->open->count++] = launch;
  return 0;
}
int clFlush(Queue* queue) {
  return queue->properties & RECORDABLE ? INVALID_QUEUE : 0;
}
int clFinish(Queue* queue) {
  while (pending_count) pending[--pending_count]->pending = 0;
  return queue->properties & RECORDABLE ? INVALID_QUEUE : 0;
}
int clWaitForEvents(uint32_t count, Event** events) {
  for (uint32_t i = 0; i < count; ++i) {
    if (events[i]->recording) events[i]->recording->pending = 0;
  }
  return 0;
}
int clRetainEvent(Event* event) {
  return event->references++, 0;
}
int clReleaseEvent(Event* event) {
  if (--event->references == 0) free(event);
  return 0;
}
int clGetEventProfilingInfo(void* event, uint32_t what, size_t room, void* out, size_t* needed) {
  (void)event;
  const uint64_t time = what;
  return answer(&time, sizeof time, room, out, needed);
}
#define NOT_NEEDED(name)      \
  int name(void) {            \
    return INVALID_OPERATION; \
  }
NOT_NEEDED(clEnqueueMarkerWithWaitList);
NOT_NEEDED(clEnqueueReadBufferRect);
NOT_NEEDED(clEnqueueWriteBufferRect);
NOT_NEEDED(clEnqueueCopyBufferRect);
NOT_NEEDED(clCreateImage);
NOT_NEEDED(clEnqueueReadImage);
NOT_NEEDED(clEnqueueWriteImage);
NOT_NEEDED(clEnqueueCopyImage);
NOT_NEEDED(clEnqueueCopyImageToBuffer);
NOT_NEEDED(clEnqueueCopyBufferToImage);
NOT_NEEDED(clCreateProgramWithBinary);
NOT_NEEDED(clGetProgramInfo);
NOT_NEEDED(clGetProgramBuildInfo);
NOT_NEEDED(clGetKernelInfo);

/* ---- cl_qcom_recordable_queues ---- */
void* clNewRecordingQCOM(Queue* queue, int* code) {
  *code = !(queue->properties & RECORDABLE) || queue->open ? INVALID_QUEUE : 0;
  if (fails("clNewRecordingQCOM")) *code = -5;
  if (*code) return NULL;
  Recording* recording = calloc(1, sizeof(Recording));
  recording->queue = queue;
  return queue->open = recording;
}
int clEndRecordingQCOM(Recording* recording) {
  if (recording->ended) return INVALID_OPERATION;
  recording->ended = 1;
  recording->queue->open = NULL;
  printf("recorded %zu\n", recording->count);
  return 0;
}
int clReleaseRecordingQCOM(Recording* recording) {
  if (!recording->ended) return INVALID_OPERATION;
  memset(recording, 0xEE, sizeof *recording);
  free(recording);
  return 0;
}
int clEnqueueRecordingQCOM(Queue* queue, Recording* recording, size_t updates, const ArgumentUpdate* update,
                           size_t offsets, void* offset, size_t globals, void* global, size_t locals,
                           void* local, uint32_t count, void* list, void** event) {
  (void)offset, (void)global, (void)local, (void)count, (void)list;
  if ((queue->properties & RECORDABLE) || !recording->ended || offsets || globals || locals)
    return INVALID_QUEUE;
  if (fails("clEnqueueRecordingQCOM")) return -5;
  /* an update is for one replay */
  Launch launches[MOST_LAUNCHES];
  memcpy(launches, recording->launches, sizeof launches);
  for (size_t i = 0; i < updates; ++i) {
    if (update[i].launch >= recording->count) return INVALID_VALUE;
    const int code = set_argument(&launches[update[i].launch].kernel, update[i].argument, update[i].bytes,
                                  update[i].value);
    if (code) return code;
  }
  printf("replay %zu with %zu updates\n", recording->count, updates);
  if (event) *event = new_event(NULL);
  return run_all(recording, launches);
}

/* ---- cl_khr_command_buffer ---- */
void* clCreateCommandBufferKHR(uint32_t count, Queue** queues, const uint64_t* properties, int* code) {
  *code = count != 1 || fails("clCreateCommandBufferKHR") ? INVALID_VALUE : 0;
  const int simultaneous = properties && properties[0] == 0x1293 && (properties[1] & 1);
  if (simultaneous && !getenv("FAKE_SIMULTANEOUS")) *code = INVALID_VALUE;
  if (*code) return NULL;
  Recording* recording = calloc(1, sizeof(Recording));
  recording->queue = queues[0];
  recording->simultaneous = simultaneous;
  return recording;
}
int clCommandNDRangeKernelKHR(Recording* recording, void* queue, const uint64_t* properties, Kernel* kernel,
                              uint32_t dimensions, const size_t* offset, const size_t* global,
                              const size_t* local, uint32_t count, void* list, void* point, void** handle) {
  (void)offset, (void)local, (void)list, (void)point;
  if (recording->ended || queue || properties || count || handle) return INVALID_OPERATION;
  if (recording->count == MOST_LAUNCHES) return -5;
  recording->launches[recording->count++] = as_launch(kernel, dimensions, global);
  return 0;
}
int clFinalizeCommandBufferKHR(Recording* recording) {
  if (recording->ended) return INVALID_OPERATION;
  recording->ended = 1;
  printf("finalised %zu\n", recording->count);
  return 0;
}
int clReleaseCommandBufferKHR(Recording* recording) {
  if (recording->pending && !recording->simultaneous) {
    printf("released while pending\n");
    return INVALID_OPERATION;
  }
  memset(recording, 0xEE, sizeof *recording);
  free(recording);
  return 0;
}
int clEnqueueCommandBufferKHR(uint32_t count, void* queues, Recording* recording, uint32_t events, void* list,
                              void** event) {
  (void)queues, (void)list;
  if (!recording->ended || count || events) return INVALID_OPERATION;
  if (fails("clEnqueueCommandBufferKHR")) return -5;
  if (recording->pending && !recording->simultaneous) {
    printf("enqueued while pending\n");
    return INVALID_OPERATION;
  }
  recording->pending = 1;
  if (pending_count < 256) pending[pending_count++] = recording;
  printf("replay buffer %zu\n", recording->count);
  if (event) *event = new_event(recording);
  return run_all(recording, recording->launches);
}
