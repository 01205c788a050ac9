#include "backends/redis/scripts.h"

#include <openssl/evp.h>

#include <algorithm>
#include <array>

namespace lockr::redis {
namespace {

// Passes a free lock on. Where the server has no memory left to keep it for who was named, that one finds it free or
// not.
constexpr const char* kPassOn = R"lua(
local function pass_on(lock, queue)
  local channel, key = prefix .. 'p:', string.sub(lock, #prefix + 3)
  local readers = false
  while true do
    local head = redis.call('ZRANGE', queue, 0, 0)[1]
    if not head or (readers and string.sub(head, 1, 1) == 'x') then return end
    redis.call('ZREM', queue, head)
    local process = string.match(head, '^. ([^ ]+)')
    if redis.call('PUBLISH', channel .. process, key) > 0 then
      if string.sub(head, 1, 1) == 'x' then
        redis.pcall('SET', lock, 'r ' .. process, 'PX', reserved)
        return
      end
      local time = redis.call('TIME')
      redis.pcall('ZADD', lock, time[1] * 1000 + math.floor(time[2] / 1000) + reserved, 'r ' .. process)
      if redis.call('PTTL', lock) < tonumber(reserved) then redis.call('PEXPIRE', lock, reserved) end
      readers = true
    end
  end
end
)lua";

constexpr const char* kPlace = R"lua(
local prefix, reserved = ARGV[1], ARGV[2]
)lua";

// The common case makes no closures, which would be most of its cost: exclusive locks that are free or somebody else's,
// are kept for us, or are waited for from now on.
constexpr const char* kTakeStart = R"lua(
local prefix, reserved, process, ttl, floor, rule = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local mine = 'r ' .. process
local count = (#KEYS - 1) / 2
local answers, granted, hard = {}, 0, false
for i = 1, count do
  if ARGV[3 * i + 4] ~= 'x' then hard = true end
end
if rule == 'all' then hard = true end
if not hard then
  for i = 1, count do
    local lock, value, member = KEYS[2 * i], ARGV[3 * i + 5], ARGV[3 * i + 6]
    if rule == 'any' and granted > 0 then
      answers[i] = 0
    elseif member == '' and redis.call('SET', lock, value, 'NX', 'PX', ttl) then
      answers[i] = 1
      granted = granted + 1
    else
      local held = redis.pcall('GET', lock)
      if type(held) ~= 'string' then
        hard = true
      elseif held == mine then
        if member ~= '' then redis.call('ZREM', KEYS[2 * i + 1], member) end
        redis.call('SET', lock, value, 'PX', ttl)
        answers[i] = 1
        granted = granted + 1
      elseif member == '' then
        answers[i] = 0
      else
        local time = redis.call('TIME')
        redis.call('ZADD', KEYS[2 * i + 1], 'NX', time[1] * 1000000 + time[2], member)
        redis.call('PEXPIRE', KEYS[2 * i + 1], 60000)
        local left = redis.call('PTTL', lock)
        answers[i] = -1 - (left < 0 and 3600000 or left)
      end
    end
  end
end
if hard then
)lua";

constexpr const char* kTakeHard = R"lua(
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function writer_waits(queue)
  while true do
    local head = redis.call('ZRANGE', queue, 0, 0)[1]
    if not head then return false end
    local first = string.match(head, '^. ([^ ]+)')
    if redis.call('PUBSUB', 'NUMSUB', prefix .. 'p:' .. first)[2] > 0 then return first ~= process end
    redis.call('ZREM', queue, head)
  end
end

-- Whether it can be had, and whether nobody at all has it.
local function look(lock, queue, mode)
  local kind = redis.call('TYPE', lock).ok
  if kind == 'none' then return true, true end
  if kind == 'string' then return redis.call('GET', lock) == mine, false end
  if kind ~= 'zset' then return nil end
  redis.call('ZREMRANGEBYSCORE', lock, '-inf', now)
  if redis.call('EXISTS', lock) == 0 then return true, true end
  if mode == 'x' then return false, false end
  return redis.call('ZSCORE', lock, mine) or not writer_waits(queue), false
end

local function have(lock, mode, value)
  if mode == 'x' then
    redis.call('SET', lock, value, 'PX', ttl)
    return
  end
  if redis.call('TYPE', lock).ok == 'string' then redis.call('DEL', lock) end
  redis.call('ZADD', lock, now + ttl, value)
  redis.call('ZREM', lock, mine)
  if redis.call('PTTL', lock) < tonumber(ttl) then redis.call('PEXPIRE', lock, ttl) end
end

local function wait(lock, queue, member)
  redis.call('ZADD', queue, 'NX', time[1] * 1000000 + time[2], member)
  redis.call('PEXPIRE', queue, 60000)
  local left = redis.call('PTTL', lock)
  return -1 - (left < 0 and 3600000 or left)
end

local function take(i)
  local lock, queue, mode, value, member = KEYS[2 * i], KEYS[2 * i + 1], ARGV[3 * i + 4], ARGV[3 * i + 5], ARGV[3 * i + 6]
  local free, new = look(lock, queue, mode)
  if free == nil then return 'WRONGTYPE ' .. lock end
  if free and new and member ~= '' then
    -- The others' turn comes first, if there are any.
    local head = redis.call('ZRANGE', queue, 0, 0)[1]
    if head and head ~= member then
      redis.call('ZADD', queue, 'NX', time[1] * 1000000 + time[2], member)
      pass_on(lock, queue)
      free = look(lock, queue, mode)
    end
  end
  if free then
    if member ~= '' then redis.call('ZREM', queue, member) end
    have(lock, mode, value)
    granted = granted + 1
    return 1
  end
  if member ~= '' then return wait(lock, queue, member) end
  return 0
end

if rule == 'all' then
  for i = 1, count do
    local free = look(KEYS[2 * i], KEYS[2 * i + 1], ARGV[3 * i + 4])
    if free == nil then answers[i] = 'WRONGTYPE ' .. KEYS[2 * i] end
    if not free then rule = 'none' end
  end
end
for i = 1, count do
  if rule == 'none' or (rule == 'any' and granted > 0) then
    answers[i] = answers[i] or 0
  elseif not answers[i] then
    answers[i] = take(i)
  end
end
)lua";

constexpr const char* kTakeEnd = R"lua(
end
if floor ~= '' and granted > 0 then
)lua";

// Tokens: what the counter says, unless it is gone or from before the server's last start.
constexpr const char* kDraw = R"lua(
  local token = redis.pcall('INCRBY', KEYS[1], granted)
  if type(token) ~= 'number' or token - granted < tonumber(floor) then
    local time = redis.call('TIME')
    token = math.max(time[1] * 1000000 + time[2], tonumber(floor)) + granted
    redis.call('SET', KEYS[1], string.format('%.0f', token))
  end
)lua";

constexpr const char* kTakeAnswer = R"lua(
  token = token - granted
  for i = 1, count do
    if answers[i] == 1 then
      token = token + 1
      answers[i] = token
    end
  end
end
return answers
)lua";

// MSETNX sets all or none, and no lease: what it set is ours alone.
constexpr const char* kTakeAll = R"lua(
local ttl, floor, value, granted = ARGV[1], ARGV[2], ARGV[3], #KEYS - 1
local pairs = {}
for i = 1, granted do pairs[2 * i - 1], pairs[2 * i] = KEYS[i + 1], value end
if redis.call('MSETNX', unpack(pairs)) == 0 then return 0 end
for i = 1, granted do redis.call('PEXPIRE', KEYS[i + 1], ttl) end
if floor == '' then return granted end
)lua";

constexpr const char* kReleaseStart = R"lua(
local answers, waited = {}, nil
for i = 1, #KEYS / 2 do
  local lock, queue, value, keep = KEYS[2 * i - 1], KEYS[2 * i], ARGV[3 * i + 1], ARGV[3 * i + 2]
  local free = false
  answers[i] = 0
  if ARGV[3 * i] == 'x' then
    if redis.pcall('GET', lock) == value then
      answers[i] = 1
      if keep == '0' then
        redis.call('DEL', lock)
        free = true
      else
        -- Under another value: a renewal on its way would set its own time. The server refuses a SET for lack of memory,
        -- but not once the script has written.
        redis.call('PEXPIRE', lock, keep)
        redis.call('SET', lock, 'k' .. value, 'PX', keep)
      end
    end
  elseif redis.pcall('ZREM', lock, value) == 1 then
    local time = redis.call('TIME')
    redis.call('ZREMRANGEBYSCORE', lock, '-inf', time[1] * 1000 + math.floor(time[2] / 1000))
    free = redis.call('EXISTS', lock) == 0
    answers[i] = 1
  end
  if free and redis.call('EXISTS', queue) == 1 then
    waited = waited or {}
    waited[#waited + 1] = i
  end
end
if waited then
)lua";

constexpr const char* kReleaseEnd = R"lua(
for _, i in ipairs(waited) do pass_on(KEYS[2 * i - 1], KEYS[2 * i]) end
end
return answers
)lua";

// The common case again: no closure, no loop, no table.
constexpr const char* kReleaseOne = R"lua(
local lock, queue = KEYS[1], KEYS[2]
if redis.pcall('GET', lock) ~= ARGV[1] then return 0 end
redis.call('DEL', lock)
if redis.call('EXISTS', queue) == 0 then return 1 end
local prefix, reserved = ARGV[2], ARGV[3]
)lua";

constexpr const char* kLeave = R"lua(
local mine = 'r ' .. ARGV[3]
for i = 1, #KEYS / 2 do
  local lock, queue = KEYS[2 * i - 1], KEYS[2 * i]
  redis.call('ZREM', queue, ARGV[i + 3])
  local left = redis.pcall('GET', lock) == mine and redis.call('DEL', lock) or redis.pcall('ZREM', lock, mine)
  if left == 1 and redis.call('EXISTS', lock) == 0 then pass_on(lock, queue) end
end
return 1
)lua";

constexpr const char* kRenew = R"lua(
local ttl = ARGV[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local answers = {now}
for i = 1, #KEYS do
  local lock, value, held = KEYS[i], ARGV[2 * i + 1], false
  if ARGV[2 * i] == 'x' then
    held = redis.pcall('GET', lock) == value and redis.call('PEXPIRE', lock, ttl) == 1
  elseif type(redis.pcall('ZSCORE', lock, value)) == 'string' then
    -- In this order: a server without memory refuses a ZADD, but not once the script has written.
    held = true
    redis.call('PEXPIRE', lock, math.max(ttl, redis.call('PTTL', lock)))
    redis.call('ZADD', lock, 'XX', now + ttl, value)
  end
  if not held then answers[#answers + 1] = i end
end
return answers
)lua";

constexpr const char* kInspect = R"lua(
local prefix = ARGV[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local answers = {}
for i = 1, #KEYS / 2 do
  local lock, queue = KEYS[2 * i - 1], KEYS[2 * i]
  local rows = {}
  local kind = redis.call('TYPE', lock).ok
  if kind == 'string' then rows[1] = 'x ' .. redis.call('GET', lock) end
  if kind == 'zset' then
    for _, value in ipairs(redis.call('ZRANGEBYSCORE', lock, '(' .. string.format('%.0f', now), '+inf')) do
      rows[#rows + 1] = 's ' .. value
    end
  end
  local holders = #rows
  if redis.call('TYPE', queue).ok == 'zset' then
    for _, member in ipairs(redis.call('ZRANGE', queue, 0, -1)) do
      local channel = prefix .. 'p:' .. string.match(member, '^. ([^ ]+)')
      if redis.call('PUBSUB', 'NUMSUB', channel)[2] > 0 then rows[#rows + 1] = member end
    end
  end
  answers[i] = {holders, rows}
end
return answers
)lua";

std::string write(Script script) {
  switch (script) {
    case Script::take:
      return std::string(kTakeStart) + kPassOn + kTakeHard + kTakeEnd + kDraw + kTakeAnswer;
    case Script::release:
      return std::string(kPlace) + kReleaseStart + kPassOn + kReleaseEnd;
    case Script::take_all:
      return std::string(kTakeAll) + kDraw + "return token\n";
    case Script::release_one:
      return std::string(kReleaseOne) + kPassOn + "pass_on(lock, queue)\nreturn 1\n";
    case Script::leave:
      return std::string(kPlace) + kPassOn + kLeave;
    case Script::renew:
      return kRenew;
    case Script::inspect:
      return kInspect;
  }
  return {};
}

std::string sha1(const std::string& text) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned size = 0;
  EVP_Digest(text.data(), text.size(), digest.data(), &size, EVP_sha1(), nullptr);
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string out;
  for (unsigned i = 0; i < size; ++i) out.append({kDigits[digest[i] >> 4], kDigits[digest[i] & 15]});
  return out;
}

struct Written {
  std::string text;
  std::string digest;
};

const Written& written(Script script) {
  static const std::array<Written, kScripts> all = [] {
    std::array<Written, kScripts> made;
    for (std::size_t i = 0; i < kScripts; ++i) {
      made[i].text = write(static_cast<Script>(i));
      made[i].digest = sha1(made[i].text);
    }
    return made;
  }();
  return all[static_cast<std::size_t>(script)];
}

// What a double, which the scripts count in, holds exactly; and the milliseconds of a clock within that of our own.
constexpr long long kMostNumber = 1LL << 53;
constexpr long long kMostTime = (1LL << 33) * 1000;

bool is_number(const redisReply& reply, long long least, long long most) noexcept {
  return reply.type == REDIS_REPLY_INTEGER && reply.integer >= least && reply.integer <= most;
}

template <class Fits>
bool is_array(const redisReply& reply, std::size_t size, Fits fits) noexcept {
  return reply.type == REDIS_REPLY_ARRAY && reply.elements == size &&
         std::all_of(reply.element, reply.element + size, [&](const redisReply* each) { return fits(*each); });
}

bool is_text(const redisReply& reply) noexcept { return reply.type == REDIS_REPLY_STRING; }

bool is_census(const redisReply& reply) noexcept {
  return reply.type == REDIS_REPLY_ARRAY && reply.elements == 2 &&
         is_number(*reply.element[0], 0, static_cast<long long>(reply.element[1]->elements)) &&
         is_array(*reply.element[1], reply.element[1]->elements, is_text);
}

}  // namespace

bool fits(Script script, std::size_t keys, const redisReply& reply) noexcept {
  switch (script) {
    case Script::take_all:
      return is_number(reply, 0, kMostNumber) &&
             (reply.integer == 0 || reply.integer >= static_cast<long long>(keys - 1));
    case Script::release_one:
      return is_number(reply, 0, 1);
    case Script::take:
      return is_array(reply, (keys - 1) / 2, [](const redisReply& item) {
        return is_text(item) || is_number(item, -kMostNumber, kMostNumber);
      });
    case Script::release:
      return is_array(reply, keys / 2, [](const redisReply& item) { return is_number(item, 0, 1); });
    case Script::leave:
      return is_number(reply, 1, 1);
    case Script::renew:
      return reply.elements != 0 && is_array(reply, reply.elements, [&](const redisReply& item) {
               const bool time = &item == reply.element[0];
               return is_number(item, 1, time ? kMostTime : static_cast<long long>(keys));
             });
    case Script::inspect:
      return is_array(reply, keys / 2, is_census);
  }
  return false;
}

bool fits_token(const redisReply& reply) noexcept { return is_number(reply, -kMostNumber, kMostNumber); }

const std::string& text_of(Script script) { return written(script).text; }
const std::string& digest_of(Script script) { return written(script).digest; }

}  // namespace lockr::redis
