// The JSON Schema of a config. It says of a file what core/config.cc says, as far as a schema can: see the $comment.
#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "core/risks.h"
#include "core/text.h"
#include "lockr/registry.h"
#include "lockr/spi/backend.h"

namespace lockr {
namespace {

// A string with a reference in it may become anything.
constexpr std::string_view kReference = R"({"type": "string", "pattern": "\\$\\{"})";

constexpr std::string_view kHead = R"({
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "title": "lockr config",
  "$comment": "lockr alone judges what references bring, what a plugin is and what its backend wants, the ranges of durations, what a URL or a dsn says, names of groups, lengths in bytes, duplicate fields, NUL bytes, and more than 16 levels or 256 fields. An integer is written without a point or an exponent.",
  "type": "object",
  "required": ["backend"],
  "unevaluatedProperties": false,
  "$defs": {
    "duration": {
      "type": "string",
      "pattern": "^[0-9]+([.][0-9]+)?(ns|us|ms|s|m|h)$|\\$\\{",
      "description": "One number and its unit: ns, us, ms, s, m or h"
    }
  },
)";

constexpr std::string_view kFields = R"(    "plugin": {
      "type": "string",
      "pattern": "^/|\\$\\{",
      "description": "The absolute path of a module that the backend is loaded from"
    },
    "namespace": {
      "type": "string",
      "anyOf": [{"pattern": "^[^:]+$", "maxLength": 1024}, {"pattern": "\\$\\{"}],
      "description": "Prepended to every key as its first scope"
    },
    "label": {
      "type": "string", "anyOf": [{"maxLength": 128}, {"pattern": "\\$\\{"}], "description": "Shown by `lockr who`"
    },
    "acquire_timeout": {
      "anyOf": [{"$ref": "#/$defs/duration"}, {"const": "forever"}],
      "default": "30s",
      "description": "How long lock() waits when the call doesn't say; from 0s to 8760h"
    },
    "connect_timeout": {
      "$ref": "#/$defs/duration", "default": "5s", "description": "How long opening may take; from 1ms to 1h"
    },
    "reply_timeout": {
      "$ref": "#/$defs/duration",
      "default": "3s",
      "description": "How long an engine may take to answer; from 1ms to 1h"
    },
    "release_timeout": {
      "$ref": "#/$defs/duration",
      "default": "5s",
      "description": "How long release() and close() may take; from 1ms to 1h"
    },
    "require": {
      "type": "array",
      "items": {
        "anyOf": [
          {"enum": ["shared", "fencing", "cross_process", "cross_host", "fair", "hold_at_least"]},
          {"type": "string", "pattern": "\\$\\{"}
        ]
      },
      "description": "What the engine must have, else opening fails"
    },
    "accept_risk": {"type": "array", "items": {"type": "string"}, "description": "Refusals to lift"},
    "limits": {
      "type": "object",
      "additionalProperties": false,
      "properties": {
        "held": {"type": "integer", "minimum": 0, "maximum": 1000000000, "description": "Keys held at once"},
        "waiters": {"type": "integer", "minimum": 1, "maximum": 10000000, "description": "Callers waiting at once"},
        "handoff": {"type": "integer", "minimum": 0, "maximum": 1000, "description": "Passes of a key in a process"}
      }
    }
  },
)";

// Where the backend is not known its section may have any name, but has to be a section.
constexpr std::string_view kAnySection =
    R"({"patternProperties": {"^(backend|plugin|namespace|label|(acquire|connect|reply|release)_timeout|require|accept_risk|limits)$": true}, "additionalProperties": {"type": "object"}})";

// The names that a config may call the backend by; its section has the same.
std::vector<std::string_view> names_of(const spi::BackendInfo& backend) {
  std::vector<std::string_view> names = core::split_words(backend.schemes);
  std::erase(names, std::string_view(backend.name));
  names.insert(names.begin(), backend.name);
  return names;
}

std::string quoted(std::string_view name) { return '"' + std::string(name) + '"'; }

void append(std::string& list, std::string_view name) { list += (list.empty() ? "" : ", ") + quoted(name); }

}  // namespace

// A backend's own section is allowed beside its name alone; nothing is known here of a module's backend, and of one
// that a reference names.
std::string Registry::config_schema() const {
  std::string names, sections;
  std::string risks = quoted(core::kReadableConfig);
  for (const spi::BackendInfo* backend : backends_) {
    for (const std::string_view risk : core::split_words(backend->risks)) {
      if (risks.find(quoted(risk)) == risks.npos) append(risks, risk);
    }
    for (const std::string_view name : names_of(*backend)) {
      append(names, name);
      sections += ",\n    {\n      \"if\": {\"properties\": {\"backend\": {\"const\": " + quoted(name) +
                  "}}, \"not\": {\"required\": [\"plugin\"]}},\n      \"then\": {\"properties\": {" + quoted(name) +
                  ": " + backend->schema + "}}\n    }";
    }
  }
  const std::string reference(kReference);
  std::string schema(kHead);
  schema.append("  \"properties\": {\n    \"backend\": {\"type\": \"string\", \"description\": \"The engine\"},\n");
  schema.append(kFields);
  schema.append("  \"allOf\": [\n    {\n      \"if\": {\"anyOf\": [{\"required\": [\"plugin\"]}, ");
  schema.append("{\"properties\": {\"backend\": " + reference + "}}]},\n");
  schema.append("      \"then\": {\"additionalProperties\": true, \"allOf\": [").append(kAnySection).append("]},\n");
  schema.append("      \"else\": {\"properties\": {\"backend\": {\"enum\": [" + names + "]}}}\n    },\n");
  schema.append("    {\n      \"if\": {\"not\": {\"required\": [\"plugin\"]}},\n      \"then\": {\"properties\": {");
  schema.append("\"accept_risk\": {\"items\": {\"anyOf\": [{\"enum\": [" + risks + "]}, " + reference + "]}}}}\n    }");
  return schema + sections + "\n  ]\n}\n";
}

}  // namespace lockr
