#include "cli/output_file.h"

#include "base/error.h"
#include "cli/options.h"

namespace coterie::cli {

void refuse_output_file(const std::filesystem::path& out, bool force) {
  std::error_code code;
  if (std::filesystem::is_directory(out, code))
    throw base::Error(base::ErrorKind::bad_input, out.string(), "is a folder, expected the name of a file to write",
                      "add a name, as " + (out / "NAME").string());
  refuse_existing_output(out, force);
}

}  // namespace coterie::cli
