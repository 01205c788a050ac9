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

Lane::Take Lane::take_of(Request& request) {
  return {
      .request = &request,
      .item = {
          .lease = {
              .key = *request.key, .value = site_.names.value(request.label), .mode = request.mode, .lane = number_}}};
}

void Lane::submit(std::span<Request* const> batch) {
  std::vector<Release> releases;
  std::vector<Take> takes;
  for (Request* request : batch) {
    if (request->op != Op::take) {
      // Off the books before it is sent: it is not renewed behind its release.
      auto lease = request->seat.life == site_.epoch ? site_.leases.remove(*request->key) : std::nullopt;
      Request* const answered = request->op == Op::give_back ? request : nullptr;
      if (lease) {
        lease->keep_until = request->keep_until;
        releases.push_back({answered, *std::move(lease)});
      } else if (answered) {
        answered->error = Error(errc::not_released).with_native("the lease is not on record");
        done(*answered, Answer::not_held);
      }
    }
    if (request->op != Op::give_back && request->group == 0) takes.push_back(take_of(*request));
  }
  if (!releases.empty()) release(std::move(releases));
  if (!takes.empty()) take("each", std::move(takes));
  take_groups(batch);
  link_.flush();
}

void Lane::take_groups(std::span<Request* const> batch) {
  while (!batch.empty()) {
    const Request& first = *batch.front();
    const auto end =
        std::find_if(batch.begin(), batch.end(), [&](const Request* each) { return each->group != first.group; });
    if (first.group != 0 && first.op == Op::take) {
      std::vector<Take> takes;
      const std::string_view rule = first.group_rule == spi::Group::all ? "all" : "any";
      std::for_each(batch.begin(), end, [&](Request* each) { takes.push_back(take_of(*each)); });
      take(rule, std::move(takes));
    }
    batch = batch.subspan(static_cast<std::size_t>(end - batch.begin()));
  }
}

// ---- releases

void Lane::release(std::vector<Release> releases) {
  std::vector<Lease> leases;
  for (const Release& each : releases) leases.push_back(each.lease);
  link_.call(Script::release, 2 * leases.size(), release_arguments(site_, leases),
             [this, releases = std::move(releases)](const Outcome& outcome) { released(releases, outcome); });
}

void Lane::released(const std::vector<Release>& releases, const Outcome& outcome) {
  const redisReply* const reply = outcome.reply;
  for (std::size_t i = 0; i < releases.size(); ++i) {
    Request* const request = releases[i].request;
    if (!reply) {
      // Given back as soon as that can be asked; the lease bounds it.
      Lease lease = releases[i].lease;
      lease.until = std::max(site_.held_until(), lease.keep_until);
      const Time until = lease.until;
      upkeep_.give_back_later(std::move(lease));
      if (!request) continue;
      request->error = Error(*outcome.error).with_may_hold_until(until);
      request->ask_again = site_.runtime.steady_now() + kAskAgain;
      done(*request, Answer::unknown);
      continue;
    }
    const bool given = reply->type == REDIS_REPLY_ARRAY && i < reply->elements && reply->element[i]->integer == 1;
    if (!request) continue;
    if (!given) request->error = Error(errc::not_released).with_native("the lock has another value, or none");
    done(*request, given ? Answer::released : Answer::not_held);
  }
}

// ---- takes

void Lane::take(std::string_view rule, std::vector<Take> takes) {
  std::vector<TakeItem> items;
  for (const Take& each : takes) items.push_back(each.item);
  const Time asked = site_.leases.ask();
  link_.call(Script::take, 2 * items.size() + 1, take_arguments(site_, rule, items),
             [this, takes = std::move(takes), asked](const Outcome& outcome) { taken(takes, asked, outcome); });
}

void Lane::taken(const std::vector<Take>& takes, Time asked, const Outcome& outcome) {
  const redisReply* const reply = outcome.reply;
  const bool whole = reply && reply->type == REDIS_REPLY_ARRAY && reply->elements == takes.size();
  const auto is_grant = [&](std::size_t i) {
    return whole && reply->element[i]->type == REDIS_REPLY_INTEGER && reply->element[i]->integer > 0;
  };
  for (std::size_t i = 0; i < takes.size(); ++i) {
    if (is_grant(i)) upkeep_.add(takes[i].item.lease);
  }
  site_.leases.answered(asked);
  for (std::size_t i = 0; i < takes.size(); ++i) {
    if (outcome.error) {
      fail_take(takes[i], outcome);
    } else {
      answer_take(takes[i], asked, whole ? reply->element[i] : nullptr);
    }
  }
}

void Lane::answer_take(const Take& take, Time asked, const redisReply* item) {
  Request& request = *take.request;
  if (item && item->type == REDIS_REPLY_INTEGER) {
    if (item->integer <= 0) return done(request, Answer::refused);
    request.seat = {number_, site_.epoch};
    request.valid_until = site_.valid_from(asked);
    request.token = site_.options.fencing ? static_cast<std::uint64_t>(item->integer) : 0;
    return done(request, Answer::granted);
  }
  request.error = item ? from_reply("can't take the lock", text_of(*item))
                       : Error(errc::backend_failure, "Redis answered a script in another way than expected");
  done(request, Answer::failed);
}

void Lane::fail_take(const Take& take, const Outcome& outcome) {
  Request& request = *take.request;
  request.error = *outcome.error;
  if (outcome.certain) return done(request, Answer::failed);
  Lease orphan = take.item.lease;
  orphan.until = site_.held_until();
  request.error = Error(*outcome.error).with_may_hold_until(orphan.until);
  request.ask_again = site_.runtime.steady_now() + kAskAgain;
  upkeep_.give_back_later(std::move(orphan));
  done(request, Answer::unknown);
}

}  // namespace lockr::redis
