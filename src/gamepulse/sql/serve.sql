-- name: as_of
SELECT min(as_of) AS as_of FROM watermark

-- name: counted
-- Whether something waits to be added to a span of whole hours, and how much is counted in those that may still change ($6).
SELECT clock.as_of,
    EXISTS (SELECT FROM rollup_delta
        WHERE studio_id = $1 AND game_id = $2 AND dimension_set = $3 AND start >= $4 AND start < $5) AS is_waiting,
    (SELECT coalesce(sum({counts}), 0) FROM rollup_total
        WHERE studio_id = $1 AND game_id = $2 AND dimension_set = $3 AND step = 'hour'
            AND start >= greatest($4, date_trunc('hour', clock.as_of, 'UTC') - $6::interval) AND start < $5) AS counted
FROM (SELECT min(as_of) AS as_of FROM watermark) AS clock

-- name: opening
-- What is to be known of a span before it is read: which steps are not right now, which recent ones there are, and what waits to be
-- added.
SELECT (SELECT min(as_of) FROM watermark) AS as_of, count(*) AS deltas, coalesce(sum(length(block)), 0) AS bytes, min(since) AS since,
    (SELECT coalesce(array_agg((step, start)), '{}') FROM stale_rollup
        WHERE studio_id = $1 AND game_id = $2 AND dimension_set = $3
            AND start < $5 AND start + width > $4) AS stale,
    (SELECT coalesce(array_agg(start), '{}') FROM rollup_total
        WHERE studio_id = $1 AND game_id = $2 AND dimension_set = $3 AND step = 'recent'
            AND start >= $4 AND start < $5 AND start >= date_trunc('hour', now(), 'UTC') - interval '25 hours') AS recent
FROM rollup_delta WHERE studio_id = $1 AND game_id = $2 AND dimension_set = $3 AND start >= $4 AND start < $5

-- name: minutes_bytes
SELECT coalesce(sum(length(block)), 0) FROM rollup_minute
WHERE studio_id = $1 AND game_id = $2 AND dimension_set = $3 AND start >= $4 AND start < $5

-- name: deltas
SELECT start, block FROM rollup_delta WHERE studio_id = $1 AND game_id = $2 AND dimension_set = $3 AND start >= $4 AND start < $5

-- name: minutes
SELECT start, block FROM rollup_minute WHERE studio_id = $1 AND game_id = $2 AND dimension_set = $3 AND start >= $4 AND start < $5

-- name: rollup_totals
SELECT step, start, group_ids, group_reports, group_sessions, group_bad_sessions{measures}
FROM rollup_total
WHERE studio_id = $1 AND game_id = $2 AND dimension_set = $3 AND (step, start) IN (SELECT * FROM unnest($4::text[], $5::timestamptz[]))

-- name: groups
-- One row: of all rows the group, which of the starts ($4), and the measures.
SELECT array_agg(dimension_id), array_agg(array_position($4::timestamptz[], start)), {measures}
FROM rollup_{step}
WHERE studio_id = $1 AND game_id = $2 AND dimension_set = $3 AND start = ANY ($4::timestamptz[]) AND dimension_id = ANY ($5::bigint[])

-- name: dimensions
SELECT dimension_id, {dimensions} FROM dimension WHERE studio_id = $1 AND game_id = $2 AND dimension_id = ANY ($3::bigint[])

-- name: changed_minutes
-- Blocks of the live page that were written since the snapshot whose horizon is $5; a block that comes twice is the same.
SELECT start, is_late, block FROM rollup_minute
WHERE studio_id = $1 AND game_id = $2 AND dimension_set = 0 AND start >= $3 AND start < $4 AND changed >= $5::bigint::text::xid8

-- name: changed_deltas
-- All that wait, by their keys, with the blocks of those that are new.
SELECT start, shard, upto, CASE WHEN changed >= $5::bigint::text::xid8 THEN block END AS block FROM rollup_delta
WHERE studio_id = $1 AND game_id = $2 AND dimension_set = 0 AND start >= $3 AND start < $4

-- name: clock
SELECT min(as_of) AS as_of, pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS horizon,
    (SELECT is_public FROM game WHERE studio_id = $1 AND game_id = $2) AS is_public
FROM watermark

-- name: session_batches
SELECT received_at, clock_offset_ms, labels, match, records, events
FROM raw_batch
WHERE studio_id = $1 AND game_id = $2 AND session_id = $3 AND received_at >= $5
ORDER BY received_at
LIMIT $4

-- name: player_sessions
SELECT session_id, min(country) AS country, min(subdivision) AS subdivision, min(network) AS network, min(connection) AS connection,
    min(platform) AS platform, min(build) AS build, min(match) AS match, min(first_at) AS first_at, max(last_at) AS last_at,
    sum(reports) AS reports, sum(bad_reports) AS bad_reports, sum(events) AS events,
    array_agg(DISTINCT region || ' ' || server) AS places
FROM session_seen_all
WHERE studio_id = $1 AND game_id = $2 AND player = $3 AND last_at >= $5
GROUP BY session_id
ORDER BY max(last_at) DESC
LIMIT $4

-- name: server_sessions
SELECT session_id, min(country) AS country, min(subdivision) AS subdivision, min(network) AS network, min(connection) AS connection,
    min(platform) AS platform, min(build) AS build, min(match) AS match, min(first_at) AS first_at, max(last_at) AS last_at,
    sum(reports) AS reports, sum(bad_reports) AS bad_reports, sum(events) AS events,
    array_agg(DISTINCT region || ' ' || server) AS places
FROM session_seen
WHERE studio_id = $1 AND game_id = $2 AND server = $3 AND last_at >= $4 AND first_at < $5
    AND day >= ($4 AT TIME ZONE 'UTC')::date AND day <= ($5 AT TIME ZONE 'UTC')::date
GROUP BY session_id
ORDER BY max(last_at) DESC
LIMIT $6

-- name: sessions_of
-- Everyone in a network or on a build. $7 bounds what is looked at: those who came last.
WITH walked AS (
    SELECT * FROM session_seen
    WHERE studio_id = $1 AND game_id = $2 AND {dimension} = $3 AND first_at < $5
        AND day >= ($4 AT TIME ZONE 'UTC')::date AND day <= ($5 AT TIME ZONE 'UTC')::date
    ORDER BY first_at DESC
    LIMIT $7
)
SELECT session_id, min(country) AS country, min(subdivision) AS subdivision, min(network) AS network, min(connection) AS connection,
    min(platform) AS platform, min(build) AS build, min(match) AS match, min(first_at) AS first_at, max(last_at) AS last_at,
    sum(reports) AS reports, sum(bad_reports) AS bad_reports, sum(events) AS events,
    array_agg(DISTINCT region || ' ' || server) AS places, (SELECT count(*) FROM walked) AS walked
FROM walked
WHERE last_at >= $4
GROUP BY session_id
ORDER BY max(last_at) DESC
LIMIT $6
