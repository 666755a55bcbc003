/* Makes a driver compile every kernel of a file down to machine code, without running anything of interest.
 *
 *   compile_kernels FILE.cl X,Y,Z "build options"
 *
 * Mesa generates code at the first enqueue, so each kernel is enqueued once with small made-up arguments; on
 * the no-op device that executes nothing. X,Y,Z is the work-group (0,0,0: the driver's choice). What the
 * kernel asks of the device goes to standard output as "kernel NAME key=value ..." right before its enqueue;
 * the compiler's own report follows on the same stream. Exit 0: all compiled. 1: the build failed. 2: no
 * device, bad usage. */
#define CL_TARGET_OPENCL_VERSION 120
#include <CL/cl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void stop(int status, const char* format, ...) {
  va_list values;
  va_start(values, format);
  vprintf(format, values);
  va_end(values);
  putchar('\n');
  fflush(stdout);
  /* no exit handlers: the driver's are not made for a device that never finished anything */
  _exit(status);
}

static void must(cl_int code, const char* call) {
  if (code != CL_SUCCESS) stop(2, "failed %s %d", call, code);
}

static char* read_file(const char* path, size_t* length) {
  FILE* file = fopen(path, "rb");
  if (file == NULL) stop(2, "failed open %s", path);
  size_t capacity = 1 << 16;
  char* text = malloc(capacity);
  *length = 0;
  size_t got;
  while ((got = fread(text + *length, 1, capacity - *length, file)) > 0) {
    *length += got;
    if (*length == capacity) text = realloc(text, capacity *= 2);
  }
  fclose(file);
  return text;
}

static cl_mem make_image(cl_context context, const char* type) {
  const cl_image_format format = {CL_RGBA, CL_HALF_FLOAT};
  cl_image_desc description;
  memset(&description, 0, sizeof description);
  description.image_type = CL_MEM_OBJECT_IMAGE2D;
  description.image_width = description.image_height = 64;
  if (strstr(type, "array") != NULL) {
    description.image_type = CL_MEM_OBJECT_IMAGE2D_ARRAY;
    description.image_array_size = 2;
  }
  cl_int code;
  cl_mem image = clCreateImage(context, CL_MEM_READ_WRITE, &format, &description, NULL, &code);
  must(code, "clCreateImage");
  return image;
}

/* A scalar's or vector's size is found by trying: the driver knows it and refuses every other. */
static void set_value(cl_kernel kernel, cl_uint index, const char* type) {
  static const unsigned char ones[128] = {1};
  for (size_t bytes = 1; bytes <= sizeof ones; bytes *= 2) {
    if (clSetKernelArg(kernel, index, bytes, ones) == CL_SUCCESS) return;
  }
  stop(2, "failed argument %u of type %s", index, type);
}

static void set_arguments(cl_context context, cl_kernel kernel) {
  cl_uint count = 0;
  must(clGetKernelInfo(kernel, CL_KERNEL_NUM_ARGS, sizeof count, &count, NULL), "clGetKernelInfo");
  for (cl_uint index = 0; index < count; ++index) {
    char type[256] = "";
    cl_kernel_arg_address_qualifier space = 0;
    must(clGetKernelArgInfo(kernel, index, CL_KERNEL_ARG_TYPE_NAME, sizeof type, type, NULL),
         "clGetKernelArgInfo");
    must(clGetKernelArgInfo(kernel, index, CL_KERNEL_ARG_ADDRESS_QUALIFIER, sizeof space, &space, NULL),
         "clGetKernelArgInfo");
    if (strstr(type, "image") != NULL) {
      cl_mem image = make_image(context, type);
      must(clSetKernelArg(kernel, index, sizeof image, &image), "clSetKernelArg");
    } else if (space == CL_KERNEL_ARG_ADDRESS_LOCAL) {
      must(clSetKernelArg(kernel, index, 4096, NULL), "clSetKernelArg");
    } else if (strchr(type, '*') != NULL) {
      cl_int code;
      cl_mem buffer = clCreateBuffer(context, CL_MEM_READ_WRITE, 1 << 20, NULL, &code);
      must(code, "clCreateBuffer");
      must(clSetKernelArg(kernel, index, sizeof buffer, &buffer), "clSetKernelArg");
    } else {
      set_value(kernel, index, type);
    }
  }
}

static void compile(cl_context context, cl_command_queue queue, cl_device_id device, cl_kernel kernel,
                    const size_t* wanted) {
  char name[512] = "";
  size_t largest = 0, fixed[3] = {0, 0, 0};
  cl_ulong local = 0, private = 0;
  must(clGetKernelInfo(kernel, CL_KERNEL_FUNCTION_NAME, sizeof name, name, NULL), "clGetKernelInfo");
  clGetKernelWorkGroupInfo(kernel, device, CL_KERNEL_WORK_GROUP_SIZE, sizeof largest, &largest, NULL);
  clGetKernelWorkGroupInfo(kernel, device, CL_KERNEL_LOCAL_MEM_SIZE, sizeof local, &local, NULL);
  clGetKernelWorkGroupInfo(kernel, device, CL_KERNEL_PRIVATE_MEM_SIZE, sizeof private, &private, NULL);
  clGetKernelWorkGroupInfo(kernel, device, CL_KERNEL_COMPILE_WORK_GROUP_SIZE, sizeof fixed, fixed, NULL);
  set_arguments(context, kernel);
  printf("kernel %s work_group=%zu local=%llu private=%llu\n", name, largest, (unsigned long long)local,
         (unsigned long long)private);
  fflush(stdout);
  const size_t* group = fixed[0] != 0 ? fixed : wanted;
  size_t global[3] = {64, 1, 1};
  if (group[0] != 0) memcpy(global, group, sizeof global);
  const cl_int code =
      clEnqueueNDRangeKernel(queue, kernel, 3, NULL, global, group[0] != 0 ? group : NULL, 0, NULL, NULL);
  if (code != CL_SUCCESS) stop(1, "failed clEnqueueNDRangeKernel of %s %d", name, code);
  must(clFinish(queue), "clFinish");
}

int main(int count, char** arguments) {
  size_t group[3] = {0, 0, 0};
  if (count != 4 || sscanf(arguments[2], "%zu,%zu,%zu", group, group + 1, group + 2) != 3) {
    stop(2, "usage: compile_kernels FILE.cl X,Y,Z OPTIONS");
  }
  cl_platform_id platform;
  cl_device_id device;
  must(clGetPlatformIDs(1, &platform, NULL), "clGetPlatformIDs");
  must(clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 1, &device, NULL), "clGetDeviceIDs");
  char device_name[256] = "";
  clGetDeviceInfo(device, CL_DEVICE_NAME, sizeof device_name, device_name, NULL);
  printf("device %s\n", device_name);

  cl_int code;
  cl_context context = clCreateContext(NULL, 1, &device, NULL, NULL, &code);
  must(code, "clCreateContext");
  cl_command_queue queue = clCreateCommandQueue(context, device, 0, &code);
  must(code, "clCreateCommandQueue");

  size_t length = 0;
  const char* source = read_file(arguments[1], &length);
  cl_program program = clCreateProgramWithSource(context, 1, &source, &length, &code);
  must(code, "clCreateProgramWithSource");
  char* options = malloc(strlen(arguments[3]) + 32);
  sprintf(options, "-cl-kernel-arg-info %s", arguments[3]);
  code = clBuildProgram(program, 1, &device, options, NULL, NULL);
  if (code != CL_SUCCESS) {
    size_t bytes = 0;
    clGetProgramBuildInfo(program, device, CL_PROGRAM_BUILD_LOG, 0, NULL, &bytes);
    char* log = calloc(1, bytes + 1);
    clGetProgramBuildInfo(program, device, CL_PROGRAM_BUILD_LOG, bytes, log, NULL);
    stop(1, "failed clBuildProgram %d\n%s", code, log);
  }
  cl_uint kernel_count = 0;
  must(clCreateKernelsInProgram(program, 0, NULL, &kernel_count), "clCreateKernelsInProgram");
  if (kernel_count == 0) stop(1, "failed: the source has no kernel");
  cl_kernel* kernels = calloc(kernel_count, sizeof *kernels);
  must(clCreateKernelsInProgram(program, kernel_count, kernels, NULL), "clCreateKernelsInProgram");
  for (cl_uint i = 0; i < kernel_count; ++i) compile(context, queue, device, kernels[i], group);
  stop(0, "done %u", kernel_count);
}
