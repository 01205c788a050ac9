// Finds what a PostgreSQL server would look up by search_path in a statement.
#pragma once

#include <algorithm>
#include <array>
#include <cctype>
#include <string>
#include <string_view>
#include <vector>

namespace lockr::testing {

/// A scanner of the SQL that lockr writes, not of any SQL: it has no quoted names, comments or dollar quotes.
class SqlScan {
 public:
  explicit SqlScan(std::string_view sql) { split(sql); }

  /// Functions, operators, types and relations without a schema, and words that look up operators; a sentence each.
  std::vector<std::string> unqualified() const {
    std::vector<std::string> found;
    for (std::size_t i = 0; i < tokens_.size(); ++i) {
      if (const std::string fault = fault_at(i); !fault.empty()) found.push_back(fault);
    }
    return found;
  }

 private:
  static bool is_word(char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '$' || c == '.';
  }
  static bool is_operator(char c) { return std::string_view("+-*/<>=~!@#%^&|`?:").find(c) != std::string_view::npos; }

  // Words with their dots, operators, and other characters. An OPERATOR(…) is one token.
  void split(std::string_view sql) {
    for (std::size_t at = 0; at < sql.size();) {
      std::size_t end = at + 1;
      if (sql[at] == '\'') {
        end = sql.find('\'', at + 1) + 1;
      } else if (sql.substr(at).starts_with("OPERATOR(")) {
        end = sql.find(')', at) + 1;
      } else if (is_word(sql[at])) {
        while (end < sql.size() && is_word(sql[end])) ++end;
      } else if (is_operator(sql[at])) {
        while (end < sql.size() && is_operator(sql[end])) ++end;
      }
      if (std::isspace(static_cast<unsigned char>(sql[at])) == 0) tokens_.emplace_back(sql.substr(at, end - at));
      at = end;
    }
  }

  std::string before(std::size_t i) const { return i > 0 ? tokens_[i - 1] : ""; }
  std::string behind(std::size_t i) const { return i + 1 < tokens_.size() ? tokens_[i + 1] : ""; }

  template <std::size_t n>
  static bool among(const std::string& token, const std::array<std::string_view, n>& words) {
    return std::find(words.begin(), words.end(), token) != words.end();
  }

  static bool is_qualified(const std::string& name) {
    return name.starts_with("pg_catalog.") || name.starts_with("lockr.");
  }

  // The text of a SET is names and constants.
  bool in_set(std::size_t i) const {
    std::size_t start = i;
    while (start > 0 && tokens_[start - 1] != ";") --start;
    return tokens_[start] == "SET";
  }

  // A name that the statement itself makes: "WITH name AS", "AS name(…)".
  bool is_own_name(const std::string& name) const {
    for (std::size_t i = 0; i < tokens_.size(); ++i) {
      if (tokens_[i] != name) continue;
      const bool with = before(i) == "WITH" && behind(i) == "AS";
      if (with || (before(i) == "AS" && behind(i) == "(")) return true;
    }
    return false;
  }

  std::string fault_at(std::size_t i) const {
    // What may stand before a bracket and calls nothing.
    constexpr std::array<std::string_view, 20> kWords{
        "SELECT", "FROM",   "WHERE", "AND",    "OR",     "NOT",          "CASE", "WHEN", "THEN", "ELSE",
        "ON",     "EXISTS", "AS",    "FILTER", "VALUES", "MATERIALIZED", "JOIN", "KEY",  "BY",   "IN"};
    constexpr std::array<std::string_view, 8> kHidden{"LIKE",   "ILIKE", "SIMILAR", "BETWEEN",
                                                      "NULLIF", "USING", "ANY",     "SOME"};
    const std::string& token = tokens_[i];
    if (token.starts_with("OPERATOR(")) {
      return token.starts_with("OPERATOR(pg_catalog.") ? "" : "the operator " + token;
    }
    if (token == "::") return is_qualified(behind(i)) ? "" : "the type " + behind(i);
    if (is_operator(token[0])) {
      const bool sign = token == "-" && !behind(i).empty() && std::isdigit(behind(i)[0]) != 0;
      return sign || in_set(i) ? "" : "the operator " + token;
    }
    if (among(token, kHidden) || (token == "IN" && behind(i) == "(")) return "the operators behind " + token;
    if (token == "CASE" && behind(i) != "WHEN") return "the operator behind CASE";
    if (!is_word(token[0])) return "";
    if (behind(i) == "(" && !among(token, kWords)) {
      const bool is_rows = token == "ROWS";
      if (!is_qualified(token) && !is_own_name(token) && !is_rows) return "the function " + token;
    }
    if (among(before(i), std::array<std::string_view, 4>{"FROM", "JOIN", "INTO", "UPDATE"}) && token != "ROWS") {
      if (!is_qualified(token) && !is_own_name(token)) return "the relation " + token;
    }
    return "";
  }

  std::vector<std::string> tokens_;
};

}  // namespace lockr::testing
