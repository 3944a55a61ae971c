-- name: game
SELECT studio_id, game_id, slug, is_public FROM game WHERE slug = $1

-- name: as_of
SELECT min(as_of) AS as_of FROM watermark

-- name: stale
SELECT step, start FROM stale_rollup WHERE studio_id = $1 AND game_id = $2 AND start < $4 AND start + ('1 ' || step)::interval > $3

-- name: rollups
SELECT start, {dimensions}, reports, rejected, loss_count, loss_ppm_sum, events, qualities, rtt, jitter, sessions, bad_sessions
FROM {table} JOIN dimension USING (studio_id, game_id, dimension_set, dimension_id)
WHERE studio_id = $1 AND game_id = $2 AND dimension_set = $3 AND start >= $4 AND start < $5
LIMIT $6

-- name: changed_rollups
-- Rows of the live page that have changed since the snapshot whose horizon is $5; a row that comes twice is the same row.
SELECT start, region, country, shard, reports, rejected, loss_count, loss_ppm_sum, events, qualities, rtt, jitter, sessions, bad_sessions
FROM rollup_minute JOIN dimension USING (studio_id, game_id, dimension_set, dimension_id)
WHERE studio_id = $1 AND game_id = $2 AND dimension_set = 0 AND start >= $3 AND start < $4 AND changed >= $5::bigint::text::xid8

-- name: clock
SELECT min(as_of) AS as_of, pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS horizon FROM watermark

-- name: session_batches
SELECT received_at, clock_offset_ms, labels, match, records, events
FROM raw_batch
WHERE studio_id = $1 AND game_id = $2 AND session_id = $3
ORDER BY received_at
LIMIT $4

-- name: player_sessions
SELECT session_id, min(country) AS country, min(subdivision) AS subdivision, min(network) AS network, min(connection) AS connection,
    min(platform) AS platform, min(build) AS build, min(match) AS match, min(first_at) AS first_at, max(last_at) AS last_at,
    sum(reports) AS reports, sum(bad_reports) AS bad_reports, sum(events) AS events,
    array_agg(DISTINCT region || ' ' || server) AS places
FROM session_seen
WHERE studio_id = $1 AND game_id = $2 AND player = $3
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
GROUP BY session_id
ORDER BY max(last_at) DESC
LIMIT $6

-- name: audit
INSERT INTO audit_log (studio_id, game_id, actor, action, subject) VALUES ($1, $2, $3, $4, $5)
