// ddimcache_build_program: builds OpenCL programs for a process that does not want to be there when the
// driver crashes. Started by it, never by hand: `ddimcache_build_program DEVICE LIBRARY…`, where DEVICE is
// the index of the device and the last LIBRARY is the plug-in, those before it what it needs (TVM's, which
// lie where only the starting process knows). Descriptor 3 is the socket.

#include <dirent.h>
#include <dlfcn.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <vector>

namespace {

constexpr int kSocket = 3;

// What the parent had open belongs to it alone: a connection that this process kept would never be seen to
// end.
void CloseInherited() {
  std::vector<int> inherited;
  DIR* listing = ::opendir("/proc/self/fd");
  if (listing == nullptr) return;
  while (const dirent* entry = ::readdir(listing)) {
    const int descriptor = std::atoi(entry->d_name);
    if (descriptor > kSocket && descriptor != ::dirfd(listing)) inherited.push_back(descriptor);
  }
  ::closedir(listing);
  for (const int descriptor : inherited) ::close(descriptor);
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 3) {
    std::fputs("ddimcache_build_program: is started by the OpenCL plug-in, not by hand\n", stderr);
    return 2;
  }
  CloseInherited();
  void* library = nullptr;
  for (int i = 2; i < count; ++i) {
    library = ::dlopen(arguments[i], RTLD_NOW | RTLD_GLOBAL);
    if (library == nullptr) {
      std::fprintf(stderr, "ddimcache_build_program: %s\n", ::dlerror());
      return 2;
    }
  }
  const auto serve = reinterpret_cast<int (*)(int, int)>(::dlsym(library, "ddimcache_serve_builds"));
  if (serve == nullptr) {
    std::fprintf(stderr, "ddimcache_build_program: %s\n", ::dlerror());
    return 2;
  }
  return serve(kSocket, std::atoi(arguments[1]));
}
