#include "backends/redis/lane.h"

#include <algorithm>
#include <functional>
#include <iterator>
#include <span>
#include <utility>

#include "backends/redis/errors.h"

namespace lockr::redis {

using spi::Op;

namespace {

// A request whose outcome is unknown may be asked again: no later answer to the first can be taken for its own.
constexpr Time kAskAgain = std::chrono::milliseconds(50);

// "SET lock value NX PX ttl"
constexpr std::string_view kSetStart = "*6\r\n$3\r\nSET\r\n";
constexpr std::string_view kCountStart = "*3\r\n$6\r\nINCRBY\r\n";

// Of a command that takes a lock: it did.
bool is_set(const redisReply& reply) { return reply.type == REDIS_REPLY_STATUS; }

bool fits_set(const redisReply& reply) {
  return reply.type == REDIS_REPLY_NIL || (is_set(reply) && text_of(reply) == "OK");
}

}  // namespace

Lane::Lane(std::uint16_t number, Site& site, Link& link, Upkeep& upkeep)
    : number_(number),
      set_end_(Arguments{"NX", "PX", std::to_string(in_milliseconds(site.kept()))}.bytes()),
      site_(site),
      link_(link),
      upkeep_(upkeep) {}

void Lane::done(Request& request, Answer answer) const {
  request.answer = answer;
  site_.sink->done(request);
}

Lane::Take Lane::take_of(Request& request) const { return take_of(request, site_.names.value(request.label)); }

Lane::Take Lane::take_of(Request& request, std::string value) const {
  Lease lease{.key = *request.key, .value = std::move(value), .mode = request.mode, .lane = number_};
  return {.request = &request, .item = {.lease = std::make_shared<const Lease>(std::move(lease))}};
}

// All of the batch is read before any of it is sent: what was sent may be answered by the service thread meanwhile, and
// is then no longer ours.
void Lane::submit(std::span<Request* const> batch) {
  std::vector<Release> releases;
  std::vector<Take> takes;
  std::vector<Group> groups = groups_of(batch);
  std::vector<Request*> off_record;
  for (Request* request : batch) {
    if (request->op != Op::take) {
      // Off the books before it is sent: it is not renewed behind its release.
      auto lease = request->seat.life == site_.epoch ? site_.leases.remove(*request->key) : nullptr;
      Request* const answered = request->op == Op::give_back ? request : nullptr;
      if (lease) {
        releases.push_back({answered, std::move(lease), request->keep_until});
      } else if (answered) {
        off_record.push_back(answered);
      }
    }
    if (request->op != Op::give_back && request->group == 0) takes.push_back(take_of(*request));
  }
  for (Request* request : off_record) {
    request->error = Error(errc::not_released).with_native("the lease is not on record");
    done(*request, Answer::not_held);
  }
  if (!releases.empty()) release(std::move(releases));
  if (!takes.empty()) take_each(std::move(takes));
  for (Group& group : groups) {
    if (group.plain) {
      take_all(std::move(group.takes));
    } else {
      take(group.rule, std::move(group.takes));
    }
  }
  link_.flush();
}

std::vector<Lane::Group> Lane::groups_of(std::span<Request* const> batch) const {
  std::vector<Group> groups;
  while (!batch.empty()) {
    const Request& first = *batch.front();
    const auto end =
        std::find_if(batch.begin(), batch.end(), [&](const Request* each) { return each->group != first.group; });
    if (first.group != 0 && first.op == Op::take) {
      Group& group = groups.emplace_back();
      group.rule = first.group_rule == spi::Group::all ? "all" : "any";
      const std::span members(batch.begin(), end);
      group.plain = first.group_rule == spi::Group::all && std::all_of(members.begin(), members.end(), [&](auto* each) {
                      return each->mode == Mode::exclusive && !site_.refusals.expects(each->identity);
                    });
      // Of one session, taken by one command: one value says so of all.
      const std::string value = site_.names.value(first.label);
      for (Request* each : members) group.takes.push_back(take_of(*each, value));
    }
    batch = batch.subspan(static_cast<std::size_t>(end - batch.begin()));
  }
  return groups;
}

// ---- releases

void Lane::release(std::vector<Release> releases) {
  if (releases.size() == 1 && releases[0].lease->mode == Mode::exclusive && releases[0].keep_until == Time{0}) {
    return release_one(releases[0]);
  }
  Arguments arguments = release_arguments(
      site_, releases, [](const Release& each) -> const Lease& { return *each.lease; },
      std::mem_fn(&Release::keep_until));
  const std::size_t keys = 2 * releases.size();
  link_.call(Script::release, keys, std::move(arguments),
             [this, releases = std::move(releases)](const Outcome& outcome) { released(releases, outcome); });
}

void Lane::release_one(const Release& one) {
  Arguments arguments;
  arguments.reserve(kItemBytes);
  add_names(arguments, site_.names, one.lease->key);
  arguments.add(one.lease->value).add(site_.names.prefix()).add(in_milliseconds(kReserved));
  link_.call(Script::release_one, 2, std::move(arguments),
             [this, releases = std::vector{one}](const Outcome& outcome) { released(releases, outcome); });
}

void Lane::released(const std::vector<Release>& releases, const Outcome& outcome) {
  const redisReply* const reply = outcome.reply;
  for (std::size_t i = 0; i < releases.size(); ++i) {
    Request* const request = releases[i].request;
    if (!reply) {
      // Given back as soon as that can be asked; the lease bounds it.
      Lease left = *releases[i].lease;
      left.keep_until = releases[i].keep_until;
      const Time until = std::max(site_.held_until(), left.keep_until);
      upkeep_.give_back_later(std::move(left), until);
      if (!request) continue;
      request->error = Error(*outcome.error).with_may_hold_until(until);
      request->ask_again = site_.runtime.steady_now() + kAskAgain;
      done(*request, Answer::unknown);
      continue;
    }
    const redisReply& item = reply->type == REDIS_REPLY_ARRAY ? *reply->element[i] : *reply;
    const bool given = item.integer == 1;
    if (!request) continue;
    if (!given) request->error = Error(errc::not_released).with_native("the lock has another value, or none");
    done(*request, given ? Answer::released : Answer::not_held);
  }
}

// ---- takes

// A lock that is free is taken by a plain command, which costs the server far less than the script. Whose it is
// when it is refused, the script alone can tell: it may be kept for us, or be shared by holders that are gone.
void Lane::take_each(std::vector<Take> takes) {
  const auto plain = std::partition(takes.begin(), takes.end(), [&](const Take& each) {
    return each.request->mode == Mode::exclusive && !site_.refusals.expects(each.request->identity);
  });
  std::vector<Take> rest(std::make_move_iterator(plain), std::make_move_iterator(takes.end()));
  takes.erase(plain, takes.end());
  if (!takes.empty()) take_plainly(std::move(takes));
  if (!rest.empty()) take("each", std::move(rest));
}

// The tokens are drawn behind: whoever takes one of the locks next does so later, and draws later. Where its lease ran
// out before that, the answer comes too late for the grant to count.
void Lane::take_plainly(std::vector<Take> takes) {
  const Asked asked = site_.ask();
  const std::size_t locks = takes.size();
  Arguments commands;
  commands.reserve(kItemBytes * (locks + 1));
  for (const Take& each : takes) {
    const Lease& lease = *each.item.lease;
    commands.add_encoded(kSetStart).add(site_.names.locks(), lease.key.string()).add(lease.value).add_encoded(set_end_);
  }
  const bool fencing = site_.options.fencing;
  if (fencing) commands.add_encoded(kCountStart).add(site_.names.token()).add(static_cast<std::int64_t>(locks));
  link_.call_each(
      commands.bytes(), locks + (fencing ? 1 : 0),
      [locks](std::size_t number, const redisReply& reply) {
        return number < locks ? fits_set(reply) : fits_token(reply);
      },
      [this, takes = std::move(takes), asked](const Outcome& outcome) { taken_plainly(takes, asked, outcome); });
}

void Lane::taken_plainly(const std::vector<Take>& takes, const Asked& asked, const Outcome& outcome) {
  if (!outcome.reply) {
    site_.leases.answered(asked.at);
    for (const Take& each : takes) fail_take(each, outcome);
    return;
  }
  const std::span replies(outcome.reply->element, takes.size());
  std::vector<Take> refused;
  std::vector<Take> without_token;
  std::int64_t token = 0;
  bool has_tokens = true;
  if (site_.options.fencing) {
    const redisReply& last = *outcome.reply->element[takes.size()];
    token = last.integer - static_cast<std::int64_t>(takes.size());
    has_tokens = last.type == REDIS_REPLY_INTEGER && token >= asked.least_token;
  }
  for (std::size_t i = 0; i < takes.size(); ++i) {
    if (replies[i]->type == REDIS_REPLY_NIL) refused.push_back(takes[i]);
    if (is_set(*replies[i])) has_tokens ? upkeep_.add(takes[i].item.lease) : without_token.push_back(takes[i]);
  }
  site_.leases.answered(asked.at);
  // What is answered is no longer ours.
  for (std::size_t i = 0; i < takes.size(); ++i) {
    if (replies[i]->type == REDIS_REPLY_ERROR) {
      const Error why = from_reply("Redis refused a command", text_of(*replies[i]));
      fail_take(takes[i], {.reply = nullptr, .error = why, .certain = true, .half_done = false});
    } else if (is_set(*replies[i]) && has_tokens) {
      granted(takes[i], asked, ++token);
    }
  }
  if (without_token.empty() && refused.empty()) return;
  if (!without_token.empty()) take_anew(without_token);
  if (!refused.empty()) take("each", std::move(refused));
  link_.flush();
}

// The counter is gone, or from before the server's last start; the script, which knows the time, makes it anew. A token
// that is drawn once the lock may have gone to others would be above theirs: so it is given back, and taken with one.
void Lane::take_anew(const std::vector<Take>& takes) {
  std::vector<Release> releases;
  std::vector<Take> anew;
  for (const Take& each : takes) {
    releases.push_back({nullptr, each.item.lease, Time{0}});
    anew.push_back(take_of(*each.request));
  }
  release(std::move(releases));
  take("each", std::move(anew));
}

void Lane::take_all(std::vector<Take> takes) {
  const Asked asked = site_.ask();
  Arguments arguments;
  arguments.reserve(kItemBytes / 4 * (takes.size() + 4));
  arguments.add(site_.names.token());
  for (const Take& each : takes) arguments.add(site_.names.locks(), each.item.lease->key.string());
  arguments.add(in_milliseconds(site_.kept()));
  add_least_token(arguments, site_);
  arguments.add(takes.front().item.lease->value);
  const std::size_t keys = takes.size() + 1;
  link_.call(Script::take_all, keys, std::move(arguments),
             [this, takes = std::move(takes), asked](const Outcome& outcome) { taken_all(takes, asked, outcome); });
}

void Lane::taken_all(const std::vector<Take>& takes, const Asked& asked, const Outcome& outcome) {
  const bool taken = outcome.reply && outcome.reply->integer > 0;
  for (const Take& each : takes) {
    if (taken) upkeep_.add(each.item.lease);
  }
  site_.leases.answered(asked.at);
  if (outcome.reply && !taken) {
    take("all", takes);
    return link_.flush();
  }
  std::int64_t token = taken ? outcome.reply->integer - static_cast<std::int64_t>(takes.size()) : 0;
  for (const Take& each : takes) {
    if (taken) {
      granted(each, asked, ++token);
    } else {
      fail_take(each, outcome);
    }
  }
}

void Lane::take(std::string_view rule, std::vector<Take> takes) {
  const Asked asked = site_.ask();
  Arguments arguments =
      take_arguments(site_, rule, takes, [](const Take& each) -> const TakeItem& { return each.item; });
  const std::size_t keys = 2 * takes.size() + 1;
  link_.call(Script::take, keys, std::move(arguments),
             [this, takes = std::move(takes), asked](const Outcome& outcome) { taken(takes, asked, outcome); });
}

void Lane::taken(const std::vector<Take>& takes, const Asked& asked, const Outcome& outcome) {
  const redisReply* const reply = outcome.reply;
  for (std::size_t i = 0; reply && i < takes.size(); ++i) {
    if (is_grant(*reply->element[i])) upkeep_.add(takes[i].item.lease);
  }
  site_.leases.answered(asked.at);
  for (std::size_t i = 0; i < takes.size(); ++i) {
    if (reply) {
      answer_take(takes[i], asked, *reply->element[i]);
    } else {
      fail_take(takes[i], outcome);
    }
  }
}

void Lane::answer_take(const Take& take, const Asked& asked, const redisReply& item) {
  Request& request = *take.request;
  if (item.type != REDIS_REPLY_INTEGER) {
    request.error = from_reply("can't take the lock", text_of(item));
    return done(request, Answer::failed);
  }
  // Of a group that is refused, a few keys alone may be at fault.
  if (is_grant(item) || request.group == 0) site_.refusals.note(request.identity, !is_grant(item));
  if (!is_grant(item)) return done(request, Answer::refused);
  granted(take, asked, item.integer);
}

void Lane::granted(const Take& take, const Asked& asked, std::int64_t token) {
  Request& request = *take.request;
  request.seat = {number_, asked.epoch};
  request.valid_until = site_.valid_from(asked.at);
  request.token = site_.options.fencing ? static_cast<std::uint64_t>(token) : 0;
  done(request, Answer::granted);
  upkeep_.granted(*take.item.lease, {number_, asked.epoch});
}

void Lane::fail_take(const Take& take, const Outcome& outcome) {
  Request& request = *take.request;
  request.error = *outcome.error;
  if (!outcome.certain || outcome.half_done) upkeep_.give_back_later(*take.item.lease, site_.held_until());
  if (outcome.certain) return done(request, Answer::failed);
  request.error = Error(*outcome.error).with_may_hold_until(site_.held_until());
  request.ask_again = site_.runtime.steady_now() + kAskAgain;
  done(request, Answer::unknown);
}

}  // namespace lockr::redis
