-- The generic cell rate algorithm (ITU-T I.371) for several limits at once, by Valkey's own clock.
-- KEYS: a limit's subject each; its value is the moment (µs) at which all that was spent will be free again.
-- ARGV: 'ask' (spend on all, or on none when one of them refuses) or 'tell' (it is spent already); then for each key
-- the µs in which one is free again, how many may be spent at once, how many are spent.
-- Answers for each key: µs to wait (0: it may), how many are left, µs until all are free.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local is_asked = ARGV[1] == 'ask'
local afters, answers, is_refused = {}, {}, false
for i, key in ipairs(KEYS) do
  local each, burst, cost = tonumber(ARGV[3 * i - 1]), tonumber(ARGV[3 * i]), tonumber(ARGV[3 * i + 1])
  local before = math.max(tonumber(redis.call('GET', key) or 0), now)
  local after = before + cost * each
  local wait = math.max(0, after + (is_asked and 0 or each) - now - burst * each)
  is_refused = is_refused or (is_asked and wait > 0)
  afters[i] = {before, after, wait}
end
for i, key in ipairs(KEYS) do
  local each, burst = tonumber(ARGV[3 * i - 1]), tonumber(ARGV[3 * i])
  local free_at = afters[i][is_refused and 1 or 2]
  if free_at > now and not is_refused then
    redis.call('SET', key, string.format('%.0f', free_at), 'PX', math.ceil((free_at - now) / 1000))
  end
  local left = math.floor(burst - (free_at - now) / each)
  answers[i] = {math.ceil(afters[i][3]), math.max(0, left), math.ceil(free_at - now)}
end
return answers
