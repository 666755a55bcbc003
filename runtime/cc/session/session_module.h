// The session for Python: functions that take and return messages, and for tests what the session is made of.
#pragma once

namespace ddimcache::session {

// Registers ddimcache.device_session.* with TVM.
void RegisterFunctions();

}  // namespace ddimcache::session
