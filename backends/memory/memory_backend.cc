// The memory backend: the lock table with nothing beneath it. Holds across the threads of one process.
#include "lockr/spi/backend.h"

namespace lockr::spi {
namespace {

Result<std::unique_ptr<Backend>> create(const OpenContext& context) {
  if (auto known = context.section.allow_only({"url"}); !known) return fail(known.error());
  auto url = context.section.string("url");
  if (!url) return fail(url.error());
  if (*url && **url != "memory:") {
    return fail(context.section.invalid("url", "\"memory:\"; the memory backend takes nothing else"));
  }
  return nullptr;
}

}  // namespace

extern const BackendInfo memory_backend{
    .name = "memory",
    .schemes = "memory",
    .summary = "the lock table alone: threads of one process; for tests and embedded use",
    .schema = R"({"type":"object","additionalProperties":false,"properties":{"url":{"const":"memory:"}}})",
    .table_alone = true,
    .create = create,
};

}  // namespace lockr::spi
