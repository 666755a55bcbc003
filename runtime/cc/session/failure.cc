#include "session.h"

namespace ddimcache::session {

Failure::Failure(std::string kind, std::string problem, std::string where, std::string remedy)
    : kind(std::move(kind)), problem(std::move(problem)), where(std::move(where)), remedy(std::move(remedy)) {
  text_ = this->where.empty() ? this->problem : this->where + ": " + this->problem;
  if (!this->remedy.empty()) text_ += "; " + this->remedy;
}

}  // namespace ddimcache::session
