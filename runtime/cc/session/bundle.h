// A bundle on disk: its manifest and files, checked before anything of it is used.
#pragma once

#include <filesystem>
#include <string>

#include "manifest.h"

namespace ddimcache::session {

struct Bundle {
  std::filesystem::path folder;
  Manifest manifest;

  std::filesystem::path path(const std::string& name) const { return folder / name; }
};

// Opens a bundle and executes nothing in it. With `sums` every file is read for its sha256, not its size
// alone. Throws Failure of kind BundleError that names the first thing wrong: the folder, the manifest (see
// ParseManifest), a missing file, a size, a sum, a link out of the folder, or a file that is not in the list.
Bundle OpenBundle(const std::filesystem::path& folder, bool sums);

}  // namespace ddimcache::session
