// What Python and C++ say to each other: the length of a JSON object (four bytes, little-endian), the object,
// and raw bytes behind it, as between client and server (runtime/rpc_protocol.py).
#pragma once

#include <string>
#include <string_view>

#include "session.h"

namespace ddimcache::session {

struct Message {
  std::string_view head, body;
};

// Throws Failure of kind UsageError for a torn message.
Message Unpack(std::string_view bytes);

std::string Pack(std::string_view head, std::string_view body = {});

// {"result": …} with a JSON value.
std::string ResultReply(std::string_view json, std::string_view body = {});
// {"error": {"kind", "what", "where", "remedy"}}
std::string ErrorReply(const Failure& failure);

// "text", "denoise", … as in State.
const char* StateName(State state);
// The keys of ddimcache.runtime.session.DrawProgress.
std::string ProgressJson(const Progress& progress);

}  // namespace ddimcache::session
