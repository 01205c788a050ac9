// Holders and waiters in words and in JSON, the same in every command that shows them.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cli/settings.h"
#include "lockr/locker.h"

namespace lockr::cli {

/// Opens the engine and asks it for who holds and waits, of `key` or of all; complains where that fails.
std::optional<std::vector<Holder>> ask_engine(const Settings& settings, const Key* key);

const char* mode_of(const Holder& holder);
const char* state_of(const Holder& holder);

/// "backup.sh, process 41873 on alder, for 3 min 20 s"; printable.
std::string in_words(const Holder& holder);

/// Its fields as those of a JSON object, without the braces; docs/cli.md lists them.
std::string json_fields(const Holder& holder);

/// A text field, and its exact bytes where JSON can't carry them.
std::string json_text(const char* name, const std::string& bytes);

}  // namespace lockr::cli
