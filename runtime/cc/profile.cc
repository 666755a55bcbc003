#include "profile.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "json.h"

namespace ddimcache::opencl {

void Profiler::Record(const std::string& name, cl_event event) {
  std::lock_guard lock(mutex_);
  auto [entry, fresh] = indices_.try_emplace(name, static_cast<uint32_t>(profile_.names.size()));
  if (fresh) profile_.names.push_back(name);
  pending_.push_back({entry->second, event});
  if (pending_.size() > kPending) ReadOldest();
}

void Profiler::ReadOldest() {
  const Pending oldest = pending_.front();
  pending_.pop_front();
  Check(api_.clWaitForEvents(1, &oldest.event), "clWaitForEvents", "while profiling");
  ProfileRecord record{oldest.name, 0, 0, 0};
  const auto read = [&](cl_uint what, uint64_t* value) {
    Check(api_.clGetEventProfilingInfo(oldest.event, what, sizeof(*value), value, nullptr),
          "clGetEventProfilingInfo", "of command \"" + profile_.names[oldest.name] + "\"");
  };
  read(kProfilingCommandQueued, &record.queued);
  read(kProfilingCommandStart, &record.start);
  read(kProfilingCommandEnd, &record.end);
  api_.clReleaseEvent(oldest.event);
  profile_.records.push_back(record);
}

Profile Profiler::Take() {
  std::lock_guard lock(mutex_);
  while (!pending_.empty()) ReadOldest();
  indices_.clear();
  return std::exchange(profile_, {});
}

std::string Profile::SummaryJson() const {
  struct Total {
    uint64_t calls = 0, nanoseconds = 0, minimum = std::numeric_limits<uint64_t>::max();
  };
  std::vector<Total> totals(names.size());
  for (const ProfileRecord& record : records) {
    Total& total = totals[record.name];
    const uint64_t duration = record.end - record.start;
    total.calls += 1;
    total.nanoseconds += duration;
    total.minimum = std::min(total.minimum, duration);
  }
  std::vector<size_t> order(names.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return totals[a].nanoseconds > totals[b].nanoseconds; });
  std::string rows;
  for (size_t i : order) {
    if (!rows.empty()) rows += ", ";
    rows += JsonObject()
                .Add("kernel", names[i])
                .Add("calls", totals[i].calls)
                .Add("seconds", static_cast<double>(totals[i].nanoseconds) * 1e-9)
                .Add("seconds_minimum", static_cast<double>(totals[i].minimum) * 1e-9)
                .Finish();
  }
  return "[" + rows + "]";
}

std::string Profile::TimelineJson() const {
  std::string rows;
  for (const ProfileRecord& record : records) {
    if (!rows.empty()) rows += ", ";
    rows += JsonObject()
                .Add("kernel", names[record.name])
                .Add("queued", record.queued)
                .Add("start", record.start)
                .Add("end", record.end)
                .Finish();
  }
  return "[" + rows + "]";
}

}  // namespace ddimcache::opencl
