-- name: count_pending
SELECT count(*) FROM erasure WHERE studio_id = $1 AND done_at IS NULL

-- name: request
INSERT INTO erasure (studio_id, game_id, player) VALUES ($1, $2, $3)
RETURNING erasure_id, requested_at, done_at, sessions, batches

-- name: erasure
SELECT erasure_id, requested_at, done_at, sessions, batches FROM erasure WHERE studio_id = $1 AND game_id = $2 AND erasure_id = $3

-- name: due
-- The oldest erasure all of whose reports are counted: no step can bring anything of them any more.
SELECT studio_id, game_id, erasure_id, player, upto FROM erasure
WHERE done_at IS NULL AND xid < (SELECT min(upto) FROM watermark)
ORDER BY requested_at LIMIT 1

-- name: oldest_pending_s
SELECT extract(epoch FROM clock_timestamp() - min(requested_at))::float8 FROM erasure WHERE done_at IS NULL

-- name: sessions
SELECT DISTINCT session_id FROM session_seen_all
WHERE studio_id = $1 AND game_id = $2 AND player = $3 AND ($4::uuid IS NULL OR session_id > $4)
ORDER BY session_id LIMIT $5

-- name: hold_shard
-- A step takes this row first: none of this shard's is under way until the transaction ends.
SELECT upto::text FROM watermark WHERE shard = $1 FOR UPDATE

-- name: erase_batches
-- What is not counted came after the erasure was asked for, and is left. Another player's part of the session is theirs.
DELETE FROM raw_batch
WHERE studio_id = $1 AND game_id = $2 AND session_id = ANY ($4::uuid[]) AND xid < $5::text::xid8
    AND coalesce(player = $3, true)

-- name: pass_on
-- Where another player was in the same session and place, the row becomes theirs, and says what their reports say.
UPDATE session_seen AS seen
SET (country, subdivision, network, connection, platform, build, match, player, first_at, last_at, reports, bad_reports, events) =
    (other.country, other.subdivision, other.network, other.connection, other.platform, other.build, other.match, other.player,
        other.first_at, other.last_at, other.reports, other.bad_reports, other.events)
FROM session_seen_other AS other
WHERE seen.studio_id = $1 AND seen.game_id = $2 AND seen.session_id = ANY ($4::uuid[]) AND coalesce(seen.player = $3, true)
    AND (other.studio_id, other.game_id, other.session_id, other.day, other.region, other.server)
        = (seen.studio_id, seen.game_id, seen.session_id, seen.day, seen.region, seen.server)
    AND other.player <> $3

-- name: erase_others
-- The player's, and those that were passed on.
DELETE FROM session_seen_other AS other
WHERE studio_id = $1 AND game_id = $2 AND session_id = ANY ($4::uuid[]) AND (player = $3 OR EXISTS (
    SELECT FROM session_seen AS seen
    WHERE (other.studio_id, other.game_id, other.session_id, other.day, other.region, other.server, other.player)
        = (seen.studio_id, seen.game_id, seen.session_id, seen.day, seen.region, seen.server, seen.player)))

-- name: erase_seen
DELETE FROM session_seen WHERE studio_id = $1 AND game_id = $2 AND session_id = ANY ($4::uuid[]) AND coalesce(player = $3, true)

-- name: note
UPDATE erasure SET sessions = sessions + $4, batches = batches + $5
WHERE studio_id = $1 AND game_id = $2 AND erasure_id = $3

-- name: reached
UPDATE erasure SET upto = $4
WHERE studio_id = $1 AND game_id = $2 AND erasure_id = $3

-- name: done
UPDATE erasure SET done_at = now(), player = NULL WHERE studio_id = $1 AND game_id = $2 AND erasure_id = $3

-- name: forget_erasures
DELETE FROM erasure WHERE done_at < now() - interval '400 days'

-- name: shorter
-- Games that keep raw data for a shorter time than the service, or have what does not go with a partition; and since which day.
SELECT studio_id, game_id,
    least((now() AT TIME ZONE 'UTC')::date - coalesce(raw_retention_days, $1),
        (SELECT min(as_of) AT TIME ZONE 'UTC' FROM watermark)::date) AS since
FROM game WHERE raw_retention_days < $1 OR EXISTS (
    SELECT FROM session_seen_other AS other
    WHERE other.studio_id = game.studio_id AND other.game_id = game.game_id AND day < (now() AT TIME ZONE 'UTC')::date - $1 - 1)

-- name: expire_batches
-- Session by session and in their order, because that is the index.
DELETE FROM raw_batch
WHERE studio_id = $1 AND game_id = $2 AND received_at < $3::date::timestamp AT TIME ZONE 'UTC'
    AND xid < (SELECT min(upto) FROM watermark) AND session_id IN (
        SELECT session_id FROM raw_batch
        WHERE studio_id = $1 AND game_id = $2 AND received_at < $3::date::timestamp AT TIME ZONE 'UTC'
            AND xid < (SELECT min(upto) FROM watermark)
        ORDER BY session_id LIMIT $4)

-- name: expire_seen
-- Reports are up to 24 h late: a session is known for as long as one of its batches.
DELETE FROM session_seen
WHERE studio_id = $1 AND game_id = $2 AND day < $3::date - 1 AND session_id IN (
    SELECT session_id FROM session_seen WHERE studio_id = $1 AND game_id = $2 AND day < $3::date - 1 ORDER BY session_id LIMIT $4)

-- name: expire_others
DELETE FROM session_seen_other
WHERE studio_id = $1 AND game_id = $2 AND day < $3::date - 1 AND session_id IN (
    SELECT session_id FROM session_seen_other WHERE studio_id = $1 AND game_id = $2 AND day < $3::date - 1 ORDER BY session_id LIMIT $4)

-- name: export_sessions
SELECT DISTINCT session_id FROM session_seen_all
WHERE studio_id = $1 AND game_id = $2 AND player = $3
ORDER BY session_id LIMIT $4

-- name: export_seen
SELECT day, region, server, country, subdivision, network, connection, platform, build, match, first_at, last_at, reports,
    bad_reports, events
FROM session_seen_all
WHERE studio_id = $1 AND game_id = $2 AND session_id = $4 AND coalesce(player = $3, true)
ORDER BY day, region, server

-- name: export_batches
SELECT received_at, clock_offset_ms, labels, match, rejected, records, events, ctid::text AS place
FROM raw_batch
WHERE studio_id = $1 AND game_id = $2 AND session_id = $4 AND coalesce(player = $3, true)
    AND (received_at, ctid) > ($5::timestamptz, $6::text::tid)
ORDER BY received_at, ctid LIMIT $7
