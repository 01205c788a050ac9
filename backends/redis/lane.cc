#include "backends/redis/lane.h"

#include <algorithm>
#include <utility>

#include "backends/redis/errors.h"

namespace lockr::redis {

using spi::Op;

namespace {

// A request whose outcome is unknown may be asked again: no later answer to the first can be taken for its own.
constexpr Time kAskAgain = std::chrono::milliseconds(50);

}  // namespace

void Lane::done(Request& request, Answer answer) const {
  request.answer = answer;
  site_.sink->done(request);
}

Lane::Take Lane::take_of(Request& request) const {
  return {
      .request = &request,
      .item = {
          .lease = {
              .key = *request.key, .value = site_.names.value(request.label), .mode = request.mode, .lane = number_}}};
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
      auto lease = request->seat.life == site_.epoch ? site_.leases.remove(*request->key) : std::nullopt;
      Request* const answered = request->op == Op::give_back ? request : nullptr;
      if (lease) {
        lease->keep_until = request->keep_until;
        releases.push_back({answered, *std::move(lease)});
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
  if (!takes.empty()) take("each", std::move(takes));
  for (Group& group : groups) take(group.rule, std::move(group.takes));
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
      std::for_each(batch.begin(), end, [&](Request* each) { group.takes.push_back(take_of(*each)); });
    }
    batch = batch.subspan(static_cast<std::size_t>(end - batch.begin()));
  }
  return groups;
}

// ---- releases

void Lane::release(std::vector<Release> releases) {
  Arguments arguments =
      release_arguments(site_, releases, [](const Release& each) -> const Lease& { return each.lease; });
  const std::size_t keys = 2 * releases.size();
  link_.call(Script::release, keys, std::move(arguments),
             [this, releases = std::move(releases)](const Outcome& outcome) { released(releases, outcome); });
}

void Lane::released(const std::vector<Release>& releases, const Outcome& outcome) {
  const redisReply* const reply = outcome.reply;
  for (std::size_t i = 0; i < releases.size(); ++i) {
    Request* const request = releases[i].request;
    if (!reply) {
      // Given back as soon as that can be asked; the lease bounds it.
      const Time until = std::max(site_.held_until(), releases[i].lease.keep_until);
      upkeep_.give_back_later(releases[i].lease, until);
      if (!request) continue;
      request->error = Error(*outcome.error).with_may_hold_until(until);
      request->ask_again = site_.runtime.steady_now() + kAskAgain;
      done(*request, Answer::unknown);
      continue;
    }
    const bool given = reply->element[i]->integer == 1;
    if (!request) continue;
    if (!given) request->error = Error(errc::not_released).with_native("the lock has another value, or none");
    done(*request, given ? Answer::released : Answer::not_held);
  }
}

// ---- takes

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
  if (!is_grant(item)) return done(request, Answer::refused);
  request.seat = {number_, asked.epoch};
  request.valid_until = site_.valid_from(asked.at);
  request.token = site_.options.fencing ? static_cast<std::uint64_t>(item.integer) : 0;
  done(request, Answer::granted);
  upkeep_.granted(take.item.lease, {number_, asked.epoch});
}

void Lane::fail_take(const Take& take, const Outcome& outcome) {
  Request& request = *take.request;
  request.error = *outcome.error;
  if (!outcome.certain || outcome.half_done) upkeep_.give_back_later(take.item.lease, site_.held_until());
  if (outcome.certain) return done(request, Answer::failed);
  request.error = Error(*outcome.error).with_may_hold_until(site_.held_until());
  request.ask_again = site_.runtime.steady_now() + kAskAgain;
  done(request, Answer::unknown);
}

}  // namespace lockr::redis
