#include "build_socket.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>

namespace ddimcache::opencl {
namespace {

using Clock = std::chrono::steady_clock;

bool SendAll(int descriptor, const char* bytes, size_t size) {
  while (size > 0) {
    // Without a signal when the other end is gone.
    const ssize_t sent = ::send(descriptor, bytes, size, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return false;
    bytes += sent;
    size -= static_cast<size_t>(sent);
  }
  return true;
}

class Receiver {
 public:
  Receiver(int descriptor, double seconds)
      : descriptor_(descriptor),
        forever_(seconds < 0),
        end_(Clock::now() + std::chrono::milliseconds(forever_ ? 0 : static_cast<int64_t>(seconds * 1000))) {}

  bool Receive(char* bytes, size_t size) {
    while (size > 0) {
      if (!Wait()) return false;
      const ssize_t got = ::recv(descriptor_, bytes, size, 0);
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) return false;
      bytes += got;
      size -= static_cast<size_t>(got);
    }
    return true;
  }

  bool timed_out() const { return timed_out_; }

 private:
  bool Wait() {
    while (true) {
      int milliseconds = -1;
      if (!forever_) {
        const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end_ - Clock::now()).count();
        milliseconds = static_cast<int>(std::clamp<int64_t>(left, 0, 1'000'000));
      }
      pollfd entry{descriptor_, POLLIN, 0};
      const int ready = ::poll(&entry, 1, milliseconds);
      if (ready > 0) return true;
      if (ready < 0 && errno == EINTR) continue;
      timed_out_ = ready == 0;
      return false;
    }
  }

  const int descriptor_;
  const bool forever_;
  const Clock::time_point end_;
  bool timed_out_ = false;
};

}  // namespace

bool SendMessage(int descriptor, std::string_view message) {
  const uint64_t size = message.size();
  return SendAll(descriptor, reinterpret_cast<const char*>(&size), sizeof(size)) &&
         SendAll(descriptor, message.data(), message.size());
}

std::optional<std::string> ReceiveMessage(int descriptor, double seconds, bool* timed_out) {
  Receiver receiver(descriptor, seconds);
  *timed_out = false;
  uint64_t size = 0;
  std::string message;
  bool arrived = receiver.Receive(reinterpret_cast<char*>(&size), sizeof(size)) && size <= kMostMessageBytes;
  if (arrived) {
    message.resize(size);
    arrived = receiver.Receive(message.data(), message.size());
  }
  *timed_out = receiver.timed_out();
  return arrived ? std::optional(std::move(message)) : std::nullopt;
}

std::string JoinTexts(const std::vector<std::string>& texts) {
  std::string message;
  for (const std::string& text : texts) {
    const uint64_t size = text.size();
    message.append(reinterpret_cast<const char*>(&size), sizeof(size));
    message += text;
  }
  return message;
}

std::optional<std::vector<std::string>> SplitTexts(std::string_view message, size_t count) {
  std::vector<std::string> texts;
  while (!message.empty()) {
    uint64_t size = 0;
    if (message.size() < sizeof(size)) return std::nullopt;
    std::memcpy(&size, message.data(), sizeof(size));
    message.remove_prefix(sizeof(size));
    if (size > message.size()) return std::nullopt;
    texts.emplace_back(message.substr(0, size));
    message.remove_prefix(size);
  }
  return texts.size() == count ? std::optional(std::move(texts)) : std::nullopt;
}

}  // namespace ddimcache::opencl
