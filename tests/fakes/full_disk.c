/* A disk that is full: preloaded, it lets each file of the program cache be written only FULL_DISK_BYTES far.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

ssize_t write(int descriptor, const void* bytes, size_t size) {
  static ssize_t (*real)(int, const void*, size_t);
  if (real == NULL) real = (ssize_t (*)(int, const void*, size_t))dlsym(RTLD_NEXT, "write");
  char link[64], path[4096] = "";
  snprintf(link, sizeof(link), "/proc/self/fd/%d", descriptor);
  const ssize_t length = readlink(link, path, sizeof(path) - 1);
  if (length > 0 && strstr(path, "/.writing-") != NULL) {
    const long room = atol(getenv("FULL_DISK_BYTES")) - lseek(descriptor, 0, SEEK_CUR);
    if (room <= 0) {
      errno = ENOSPC;
      return -1;
    }
    if (size > (size_t)room) size = (size_t)room;
  }
  return real(descriptor, bytes, size);
}
